"""What sentencex does not know of where sentences end: stops of some scripts, titles before names, quotations.

Where it cuts too little, `repair_cuts` cuts; where it cuts behind what belongs to the next words, that is joined again.
"""

from collections.abc import Callable

import regex

_STOP = regex.compile(
    r"(?:(?<!។ល)(?!។ល។)[។៕]"  # Khmer, but not `។ល។`, and so on
    r"|[。！？](?=[」』]*\s*[(（]?\p{Nd}{1,3}[.．)）]\s*$)"  # before the number of the next item
    r"|(?<=[\u0f40-\u0fbc]་?)[།༎༏༑༔](?:\s*[།༎])*"  # Tibetan, but no ornament at the begin of a text
    r"|[\u1b4e\u1b4f\u1b7f\u2cf9-\u2cfb\u2e60\ufe12\ufe15\ufe16\U000113d4\U000113d5\U00016d6e\U00016d6f])"
    r"[\"'”’»)\]]*\s*"
)
"""Ends of sentences that sentencex passes over, with the space behind them."""

_CLOSING = regex.compile(r"^[」』】）〉》]+\s*")
"""Brackets that sentencex leaves to the next sentence."""

_QUOTATION_GOES_ON = regex.compile(r"(?:と(?!ても|にかく|ころ|き|な|も)|って|なんて|など|を)")
"""How a Japanese sentence goes on behind a quotation."""

_ANYWHERE = "Dr Prof Mr Mrs Ms"
_INDIC = "डॉ डा प्रो प्रा श्री श्रीमती सुश्री पं स्व"
_ENGLISH = "Messrs Mx Rev Hon Gen Col Capt Lt Sgt Gov Sen Rep"
_GERMAN = "Hr Fr Frl Dipl Ing Mag"
_SPANISH = "Sr Sra Srta Sres Sras Dra Profa D Dña Lic Ing Arq Gral Mons"
_PORTUGUESE = "Sr Sra Srta Sres Dra Profa Eng Exmo Exma"
_ITALIAN = "sig sigg sig.ra sig.na dott dott.ssa prof prof.ssa avv ing arch geom on mons"
_SCANDINAVIAN = "hr fr frk dr prof"
_SOUTH_SLAVIC = "dr prof gđa gđica mr akad"
_CYRILLIC = "д-р г-н г-жа проф акад доц"
_TITLES = {
    "ar": "د أ م",
    "as": "ড ডঃ ডা শ্ৰী",
    "bg": _CYRILLIC,
    "bn": "ড ডঃ ডা মি মো মোঃ মোছাঃ প্রফে অধ্যা শ্রী শ্রীমতী",
    "bs": _SOUTH_SLAVIC,
    "ca": _SPANISH,
    "cs": "dr prof doc ing mgr bc mudr judr phdr rndr MUDr JUDr PhDr RNDr sv",
    "da": _SCANDINAVIAN,
    "de": _GERMAN,
    "el": "κ κα κος δρ καθ",
    "en": _ENGLISH,
    "es": _SPANISH,
    "et": "dr prof hr pr",
    "fi": "tri prof hra rva nti",
    "fr": "M MM Mme Mmes Mlle Mlles Drs Pr Me Mgr Cdt Cel Gén Vve",
    "gl": _SPANISH,
    "gu": "ડૉ ડો પ્રો શ્રી શ્રીમતી",
    "hi": _INDIC,
    "hr": _SOUTH_SLAVIC,
    "hu": "dr prof id ifj özv",
    "hy": "դր պրոֆ",
    "id": "Drs Ir H Hj Bpk Sdr Tn Ny",
    "it": _ITALIAN,
    "kk": _CYRILLIC,
    "kn": "ಡಾ ಪ್ರೊ ಶ್ರೀ ಶ್ರೀಮತಿ",
    "lt": "dr prof",
    "lv": "dr prof",
    "mk": _CYRILLIC,
    "ml": "ഡോ പ്രൊഫ ശ്രീ ശ്രീമതി",
    "mr": _INDIC,
    "ms": "Ir Hj",
    "nb": _SCANDINAVIAN,
    "ne": _INDIC,
    "nl": "dhr mevr mw dr drs ir ing prof ds mr",
    "nn": _SCANDINAVIAN,
    "or": "ଡ ଡା ଡଃ ପ୍ରୋ ଶ୍ରୀ ଶ୍ରୀମତୀ",
    "pa": "ਡਾ ਪ੍ਰੋ ਸ੍ਰੀ ਸ੍ਰੀਮਤੀ",
    "pl": "dr prof mgr inż hab ks św doc",
    "pt": _PORTUGUESE,
    "ro": "dl dna dra dr prof ing",
    "ru": _CYRILLIC,
    "si": "ආචාර්ය මහාචාර්ය",
    "sk": "dr prof doc ing mgr MUDr JUDr PhDr RNDr sv",
    "sl": _SOUTH_SLAVIC,
    "sr": f"{_SOUTH_SLAVIC} {_CYRILLIC} др г-ђа",
    "sv": _SCANDINAVIAN,
    "sw": "Bw Bi Dkt",
    "ta": "திரு திருமதி செல்வி டாக்டர் முனைவர் பேரா",
    "te": "డా డాక్టర్ ప్రొ శ్రీ శ్రీమతి",
    "th": "ดร นพ พญ ศ รศ ผศ",
    "tr": "Doç Av Yrd Op Sn Uzm",
    "uk": f"{_CYRILLIC} п",
    "vi": "TS PGS GS ThS BS",
}
"""By ISO code, titles that stand before a name with a point; one in small letters may begin with a capital too."""


def repair_cuts(pieces: list[str], code: str) -> list[str]:
    """The pieces of a paragraph as sentencex cut it by the rules of a language (ISO code), with better cuts."""
    ends_in_title = _title_of(code)
    cut = [part for piece in pieces for part in _cut(piece)]
    return join_pieces(
        cut,
        lambda before, piece: bool(
            _CLOSING.fullmatch(piece)
            or ends_in_title.search(before)
            or (before.rstrip().endswith(("」", "』", "”")) and _QUOTATION_GOES_ON.match(piece))
        ),
    )


def join_pieces(pieces: list[str], belong: Callable[[str, str], bool]) -> list[str]:
    """Join each piece with what stands before it, joined so far, where both belong together."""
    joined: list[str] = []
    for piece in pieces:
        if joined and belong(joined[-1], piece):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _cut(piece: str) -> list[str]:
    ends = [match.end() for stop in (_CLOSING, _STOP) for match in stop.finditer(piece)]
    return [piece[begin:end] for begin, end in zip([0, *ends], [*ends, len(piece)], strict=True) if begin < end]


def _compiled(titles: str) -> regex.Pattern[str]:
    forms = {form for title in f"{_ANYWHERE} {titles}".split() for form in (title, title[0].upper() + title[1:])}
    return regex.compile(rf"(?<![\p{{L}}\p{{M}}\p{{N}}.\-])(?:{'|'.join(map(regex.escape, sorted(forms)))})\.\s*$")


_OF_LANGUAGE = {code: _compiled(titles) for code, titles in _TITLES.items()}
_OF_ANY = _compiled("")


def _title_of(code: str) -> regex.Pattern[str]:
    return _OF_LANGUAGE.get(code, _OF_ANY)
