"""Language codes: the project writes a language as SONAR does, `eng_Latn`; people and other programs name it otherwise.

A SONAR code is an ISO 639-3 language and an ISO 15924 script. The table holds SONAR's 202 languages with their
two-letter ISO 639-1 code, where there is one, and their English name.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from lexalcm.errors import DataError
from lexalcm.text.absent import is_absent

_PATTERN = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")

_TABLE = """
ace_Arab - Acehnese (Arabic script)
ace_Latn - Acehnese
acm_Arab - Mesopotamian Arabic
acq_Arab - Ta'izzi-Adeni Arabic
aeb_Arab - Tunisian Arabic
afr_Latn af Afrikaans
ajp_Arab - South Levantine Arabic
aka_Latn ak Akan
amh_Ethi am Amharic
apc_Arab - North Levantine Arabic
arb_Arab ar Arabic
ars_Arab - Najdi Arabic
ary_Arab - Moroccan Arabic
arz_Arab - Egyptian Arabic
asm_Beng as Assamese
ast_Latn - Asturian
awa_Deva - Awadhi
ayr_Latn ay Aymara
azb_Arab - South Azerbaijani
azj_Latn az Azerbaijani
bak_Cyrl ba Bashkir
bam_Latn bm Bambara
ban_Latn - Balinese
bel_Cyrl be Belarusian
bem_Latn - Bemba
ben_Beng bn Bengali
bho_Deva - Bhojpuri
bjn_Arab - Banjar (Arabic script)
bjn_Latn - Banjar
bod_Tibt bo Tibetan
bos_Latn bs Bosnian
bug_Latn - Buginese
bul_Cyrl bg Bulgarian
cat_Latn ca Catalan
ceb_Latn - Cebuano
ces_Latn cs Czech
cjk_Latn - Chokwe
ckb_Arab - Central Kurdish
crh_Latn - Crimean Tatar
cym_Latn cy Welsh
dan_Latn da Danish
deu_Latn de German
dik_Latn - Dinka
dyu_Latn - Dyula
dzo_Tibt dz Dzongkha
ell_Grek el Greek
eng_Latn en English
epo_Latn eo Esperanto
est_Latn et Estonian
eus_Latn eu Basque
ewe_Latn ee Ewe
fao_Latn fo Faroese
pes_Arab fa Persian
fij_Latn fj Fijian
fin_Latn fi Finnish
fon_Latn - Fon
fra_Latn fr French
fur_Latn - Friulian
fuv_Latn ff Fulfulde
gla_Latn gd Scottish Gaelic
gle_Latn ga Irish
glg_Latn gl Galician
grn_Latn gn Guarani
guj_Gujr gu Gujarati
hat_Latn ht Haitian Creole
hau_Latn ha Hausa
heb_Hebr he Hebrew
hin_Deva hi Hindi
hne_Deva - Chhattisgarhi
hrv_Latn hr Croatian
hun_Latn hu Hungarian
hye_Armn hy Armenian
ibo_Latn ig Igbo
ilo_Latn - Ilocano
ind_Latn id Indonesian
isl_Latn is Icelandic
ita_Latn it Italian
jav_Latn jv Javanese
jpn_Jpan ja Japanese
kab_Latn - Kabyle
kac_Latn - Jingpho
kam_Latn - Kamba
kan_Knda kn Kannada
kas_Arab ks Kashmiri
kas_Deva - Kashmiri (Devanagari script)
kat_Geor ka Georgian
knc_Arab - Kanuri (Arabic script)
knc_Latn kr Kanuri
kaz_Cyrl kk Kazakh
kbp_Latn - Kabiye
kea_Latn - Kabuverdianu
khm_Khmr km Khmer
kik_Latn ki Kikuyu
kin_Latn rw Kinyarwanda
kir_Cyrl ky Kyrgyz
kmb_Latn - Kimbundu
kon_Latn kg Kikongo
kor_Hang ko Korean
kmr_Latn ku Kurdish
lao_Laoo lo Lao
lvs_Latn lv Latvian
lij_Latn - Ligurian
lim_Latn li Limburgish
lin_Latn ln Lingala
lit_Latn lt Lithuanian
lmo_Latn - Lombard
ltg_Latn - Latgalian
ltz_Latn lb Luxembourgish
lua_Latn - Luba-Kasai
lug_Latn lg Ganda
luo_Latn - Luo
lus_Latn - Mizo
mag_Deva - Magahi
mai_Deva - Maithili
mal_Mlym ml Malayalam
mar_Deva mr Marathi
min_Latn - Minangkabau
mkd_Cyrl mk Macedonian
plt_Latn mg Malagasy
mlt_Latn mt Maltese
mni_Beng - Meitei
khk_Cyrl mn Mongolian
mos_Latn - Mossi
mri_Latn mi Maori
zsm_Latn ms Malay
mya_Mymr my Burmese
nld_Latn nl Dutch
nno_Latn nn Norwegian Nynorsk
nob_Latn no Norwegian
npi_Deva ne Nepali
nso_Latn - Northern Sotho
nus_Latn - Nuer
nya_Latn ny Nyanja
oci_Latn oc Occitan
gaz_Latn om Oromo
ory_Orya or Odia
pag_Latn - Pangasinan
pan_Guru pa Punjabi
pap_Latn - Papiamento
pol_Latn pl Polish
por_Latn pt Portuguese
prs_Arab - Dari
pbt_Arab ps Pashto
quy_Latn qu Quechua
ron_Latn ro Romanian
run_Latn rn Rundi
rus_Cyrl ru Russian
sag_Latn sg Sango
san_Deva sa Sanskrit
sat_Beng - Santali
scn_Latn - Sicilian
shn_Mymr - Shan
sin_Sinh si Sinhala
slk_Latn sk Slovak
slv_Latn sl Slovenian
smo_Latn sm Samoan
sna_Latn sn Shona
snd_Arab sd Sindhi
som_Latn so Somali
sot_Latn st Southern Sotho
spa_Latn es Spanish
als_Latn sq Albanian
srd_Latn sc Sardinian
srp_Cyrl sr Serbian
ssw_Latn ss Swati
sun_Latn su Sundanese
swe_Latn sv Swedish
swh_Latn sw Swahili
szl_Latn - Silesian
tam_Taml ta Tamil
tat_Cyrl tt Tatar
tel_Telu te Telugu
tgk_Cyrl tg Tajik
tgl_Latn tl Tagalog
tha_Thai th Thai
tir_Ethi ti Tigrinya
taq_Latn - Tamasheq
taq_Tfng - Tamasheq (Tifinagh script)
tpi_Latn - Tok Pisin
tsn_Latn tn Tswana
tso_Latn ts Tsonga
tuk_Latn tk Turkmen
tum_Latn - Tumbuka
tur_Latn tr Turkish
twi_Latn tw Twi
tzm_Tfng - Central Atlas Tamazight
uig_Arab ug Uyghur
ukr_Cyrl uk Ukrainian
umb_Latn - Umbundu
urd_Arab ur Urdu
uzn_Latn uz Uzbek
vec_Latn - Venetian
vie_Latn vi Vietnamese
war_Latn - Waray
wol_Latn wo Wolof
xho_Latn xh Xhosa
ydd_Hebr yi Yiddish
yor_Latn yo Yoruba
yue_Hant - Cantonese
zho_Hans zh Chinese
zho_Hant - Chinese (traditional)
zul_Latn zu Zulu
"""
_ROWS = [tuple(line.split(" ", 2)) for line in _TABLE.strip().splitlines()]

SONAR_LANGUAGES: tuple[str, ...] = tuple(code for code, _, _ in _ROWS)
"""SONAR's languages in the order of their tokens."""

_NAMES = {code: name for code, _, name in _ROWS}
_TWO_LETTERS = {code: short for code, short, _ in _ROWS if short != "-"}
_SONAR_CODES = {short: code for code, short in _TWO_LETTERS.items()}

_OTHER_NAMES = {
    "bokmal": "nob_Latn",
    "chinese (simplified)": "zho_Hans",
    "farsi": "pes_Arab",
    "filipino": "tgl_Latn",
    "flemish": "nld_Latn",
    "mandarin": "zho_Hans",
    "modern standard arabic": "arb_Arab",
    "no": "nob_Latn",
    "norwegian bokmal": "nob_Latn",
    "nynorsk": "nno_Latn",
    "simplified chinese": "zho_Hans",
    "traditional chinese": "zho_Hant",
    "zh-hant": "zho_Hant",
    "zh-hk": "zho_Hant",
    "zh-tw": "zho_Hant",
    "cmn": "zho_Hans",
    # ISO 639-2 codes for bibliographies that are others than those of ISO 639-3
    "alb": "als_Latn",
    "arm": "hye_Armn",
    "baq": "eus_Latn",
    "bur": "mya_Mymr",
    "chi": "zho_Hans",
    "cze": "ces_Latn",
    "dut": "nld_Latn",
    "fre": "fra_Latn",
    "geo": "kat_Geor",
    "ger": "deu_Latn",
    "gre": "ell_Grek",
    "ice": "isl_Latn",
    "mac": "mkd_Cyrl",
    "mao": "mri_Latn",
    "may": "zsm_Latn",
    "per": "pes_Arab",
    "rum": "ron_Latn",
    "slo": "slk_Latn",
    "tib": "bod_Tibt",
    "wel": "cym_Latn",
    # ISO 639-3 codes of macrolanguages
    "ara": "arb_Arab",
    "aym": "ayr_Latn",
    "aze": "azj_Latn",
    "fas": "pes_Arab",
    "ful": "fuv_Latn",
    "kau": "knc_Latn",
    "kur": "kmr_Latn",
    "lav": "lvs_Latn",
    "mlg": "plt_Latn",
    "mon": "khk_Cyrl",
    "msa": "zsm_Latn",
    "nep": "npi_Deva",
    "nor": "nob_Latn",
    "ori": "ory_Orya",
    "orm": "gaz_Latn",
    "pus": "pbt_Arab",
    "que": "quy_Latn",
    "sqi": "als_Latn",
    "swa": "swh_Latn",
    "uzb": "uzn_Latn",
    "yid": "ydd_Hebr",
}


def language_name(code: str) -> str:
    """A language's English name, or its code if it is not one of SONAR's: `jpn_Jpan` -> `Japanese`."""
    return _NAMES.get(code, code)


def find_language(text: str) -> str:
    """The SONAR code of a language named by code, ISO code or English name: `ja`, `jpn`, `ja-JP`, `Japanese`.

    Raises:
        DataError: no language of that name, with the nearest ones.
    """
    code = known_language(text)
    if code is not None:
        return code
    near = difflib.get_close_matches(_fold(text), _BY_NAME, n=3, cutoff=0.6)
    found = dict.fromkeys(_BY_NAME[name] for name in near)
    advice = " or ".join(f"{code} ({language_name(code)})" for code in found)
    raise DataError(
        f"unknown language {text!r}: "
        + (f"did you mean {advice}?" if advice else "write it like eng_Latn, en or English")
    )


@lru_cache(maxsize=1024)
def known_language(text: str) -> str | None:
    """As `find_language`, but None where there is no language of that name."""
    if _PATTERN.fullmatch(text):
        return text
    wanted = _fold(text)
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]
    if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]+)+", wanted):  # a region: pt-BR, zh-Hant-TW
        parts = wanted.split("-")
        for length in range(len(parts) - 1, 0, -1):
            if (shorter := "-".join(parts[:length])) in _BY_NAME:
                return _in_script(_BY_NAME[shorter], parts[length])
    return None


def _in_script(code: str, script: str) -> str:
    """The code of the same language in another script, if that is one of SONAR's."""
    other = f"{code[:3]}_{script.capitalize()}"
    return other if other in _NAMES else code


LANGUAGE_FIELDS = ("lang", "language", "language_script")
"""Fields of a record that say its language."""


def record_language(record: Mapping[str, Any], default: str) -> str:
    """The language that a record of any layout states: in `lang`, or as web corpora do in `language`.

    `language` may be anything, a programming language for instance: where it names none that is known, it says nothing.
    With a `language_script` it is the language in this script, if that is one of SONAR's.

    Args:
        record: a JSON object or a row of parquet.
        default: the SONAR code where neither is there.

    Raises:
        DataError: `lang` names no language.
    """
    lang, language, script = (record.get(name) for name in LANGUAGE_FIELDS)
    if not is_absent(lang):
        return find_language(str(lang))
    code = known_language(language) if isinstance(language, str) and not is_absent(language) else None
    if code is None:
        return default
    return _in_script(code, str(script))


def nearest_languages(text: str, among: Collection[str], count: int = 3) -> list[str]:
    """The codes of `among` that a code or name was most likely meant to be; the first ones where none is like it."""
    ways = {way: code for code in among for way in (_fold(code), _fold(language_name(code)))}
    near = difflib.get_close_matches(_fold(text), ways, n=2 * count, cutoff=0.5)
    return list(dict.fromkeys(ways[way] for way in near))[:count] or list(among)[:count]


def shown_nearest(text: str, among: Collection[str]) -> str:
    """`nearest_languages` for a message: `fra_Latn (French), fur_Latn (Friulian), fuv_Latn (Nigerian Fulfulde)`."""
    return ", ".join(f"{code} ({language_name(code)})" for code in nearest_languages(text, among))


def _fold(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.casefold().strip().replace("_", "-")


def _names_of_languages() -> dict[str, str]:
    """Every way to name a language, folded; a three-letter code means its main script."""
    names: dict[str, str] = {}
    for code, short, name in sorted(_ROWS, key=lambda row: "script" in row[2]):
        for way in (code, name, short, code[:3]):
            names.setdefault(_fold(way), code)
    del names["-"]
    return names | _OTHER_NAMES


_BY_NAME = _names_of_languages()


def check_language(code: str, where: str = "") -> str:
    """Return `code` if it has the form of a SONAR language code.

    Args:
        code: what was given, e.g. `"eng_Latn"`.
        where: what carries it, for the message, e.g. `"a.jsonl:3: "`.

    Raises:
        DataError: any other form, with the code that was probably meant.
    """
    if _PATTERN.fullmatch(code):
        return code
    meant = _SONAR_CODES.get(code.lower()[:2] if code[2:3] in ("", "-", "_") else "") or _BY_NAME.get(_fold(code), "")
    advice = f"write {meant}" if meant else "write it like eng_Latn (ISO 639-3 language, ISO 15924 script)"
    raise DataError(f"{where}language {code!r} is not a SONAR code: {advice}")


def iso_code(code: str) -> str:
    """The ISO code that sentence splitters know a language by: `eng_Latn` -> `en`, `ceb_Latn` -> `ceb`."""
    return _TWO_LETTERS.get(code) or _TWO_LETTERS.get(_SAME_LANGUAGE.get(code, ""), code.partition("_")[0])


_SAME_LANGUAGE = {
    code: standard
    for standard, codes in {
        "arb_Arab": ["acm_Arab", "acq_Arab", "aeb_Arab", "ajp_Arab", "apc_Arab", "ars_Arab", "ary_Arab", "arz_Arab"],
        "zho_Hans": ["zho_Hant", "yue_Hant"],
        "pes_Arab": ["prs_Arab"],
        "azj_Latn": ["azb_Arab"],
    }.items()
    for code in codes
}
"""Codes of one written standard whose sentences end alike."""


_KANA = re.compile(r"[\u3041-\u30ff\uff66-\uff9f]")


def language_of(text: str) -> str:
    """A guess for text that nothing is known of: Japanese where there is kana, English elsewhere.

    Between languages of one script only a statistical model could choose; for other languages users give it.
    """
    return "jpn_Jpan" if _KANA.search(text) else "eng_Latn"
