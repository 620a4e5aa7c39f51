"""Language codes: the project writes a language as SONAR does, `eng_Latn`; sentence splitters know it as `en`.

A SONAR code is an ISO 639-3 language and an ISO 15924 script. The table holds SONAR's languages that also have a
two-letter ISO 639-1 code; the others are named to a splitter by their three letters.
"""

import re

from lexalcm.errors import DataError

_PATTERN = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")

_TABLE = """
afr_Latn:af aka_Latn:ak amh_Ethi:am arb_Arab:ar asm_Beng:as azj_Latn:az bak_Cyrl:ba bam_Latn:bm bel_Cyrl:be
ben_Beng:bn bod_Tibt:bo bos_Latn:bs bul_Cyrl:bg cat_Latn:ca ces_Latn:cs cym_Latn:cy dan_Latn:da deu_Latn:de
dzo_Tibt:dz ell_Grek:el eng_Latn:en epo_Latn:eo est_Latn:et eus_Latn:eu ewe_Latn:ee fao_Latn:fo fij_Latn:fj
fin_Latn:fi fra_Latn:fr gla_Latn:gd gle_Latn:ga glg_Latn:gl grn_Latn:gn guj_Gujr:gu hat_Latn:ht hau_Latn:ha
heb_Hebr:he hin_Deva:hi hrv_Latn:hr hun_Latn:hu hye_Armn:hy ibo_Latn:ig ind_Latn:id isl_Latn:is ita_Latn:it
jav_Latn:jv jpn_Jpan:ja kan_Knda:kn kat_Geor:ka kaz_Cyrl:kk khk_Cyrl:mn khm_Khmr:km kik_Latn:ki kin_Latn:rw
kir_Cyrl:ky kon_Latn:kg kor_Hang:ko lao_Laoo:lo lim_Latn:li lin_Latn:ln lit_Latn:lt ltz_Latn:lb lug_Latn:lg
lvs_Latn:lv mal_Mlym:ml mar_Deva:mr mkd_Cyrl:mk mlt_Latn:mt mri_Latn:mi mya_Mymr:my nld_Latn:nl nno_Latn:nn
nob_Latn:no npi_Deva:ne nya_Latn:ny oci_Latn:oc ory_Orya:or pan_Guru:pa pbt_Arab:ps pes_Arab:fa plt_Latn:mg
pol_Latn:pl por_Latn:pt quy_Latn:qu ron_Latn:ro run_Latn:rn rus_Cyrl:ru sag_Latn:sg san_Deva:sa sin_Sinh:si
slk_Latn:sk slv_Latn:sl smo_Latn:sm sna_Latn:sn snd_Arab:sd som_Latn:so sot_Latn:st spa_Latn:es srd_Latn:sc
srp_Cyrl:sr ssw_Latn:ss sun_Latn:su swe_Latn:sv swh_Latn:sw tam_Taml:ta tat_Cyrl:tt tel_Telu:te tgk_Cyrl:tg
tgl_Latn:tl tha_Thai:th tir_Ethi:ti tsn_Latn:tn tso_Latn:ts tuk_Latn:tk tur_Latn:tr uig_Arab:ug ukr_Cyrl:uk
urd_Arab:ur uzn_Latn:uz vie_Latn:vi wol_Latn:wo xho_Latn:xh ydd_Hebr:yi yor_Latn:yo zho_Hans:zh zul_Latn:zu
"""
_TWO_LETTERS = dict(pair.split(":") for pair in _TABLE.split())
_SONAR_CODES = {short: code for code, short in _TWO_LETTERS.items()}


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
    meant = _SONAR_CODES.get(code.lower()[:2] if code[2:3] in ("", "-", "_") else "")
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

    Between languages of one script only a statistical model could choose; who works in another language says so.
    """
    return "jpn_Jpan" if _KANA.search(text) else "eng_Latn"
