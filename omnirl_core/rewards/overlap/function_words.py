"""Function words by language, and words that frame an answer ("the image shows"): they carry no fact of their own.

Negations, numbers, and words for places (above, left, behind) are facts and stand in no list.
"""

import re
from functools import lru_cache

from omnirl_core.text import tokens

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "a an the this that these those it its he she they them his her their him i you we my your our me us of "
        "in on at to for with by from as and or but if than then so is are was were be been being am do does did done "
        "has have had having can could will would shall should may might must there here who whom whose which what "
        "when where why how s isn aren wasn weren don doesn didn hasn haven hadn won wouldn couldn shouldn ca wo ain "
        "image picture photo photograph scene shown shows show seen see visible appears appear depicts depicted called "
        "answer because since into while such also very just about some any o",
        "de": "der die das des dem den ein eine einer eines einem einen und oder aber wenn als wie ist sind war waren "
        "wird werden wurde wurden sein hat haben hatte es er sie wir ihr ich du sich seine seinem seinen ihre ihrem "
        "ihren in im an am auf aus bei mit nach von vom zu zum zur für um durch dort hier da dass man welche welcher "
        "welches was wer wo wann warum dieser diese dieses bild foto sieht sehen zeigt gibt etwas",
        "fr": "le la les l un une des du de d et ou mais si que qui quoi dont où ce cet cette ces c il elle ils elles "
        "on se s son sa ses leur leurs je tu nous vous est sont était étaient être a ont avait y en dans sur à au aux "
        "avec par pour comme image photo voit montre quel quelle quels quelles t n ne train plus",
        "es": "el la los las lo un una unos unas de del y o pero si que quien cual ese esa este esta estos estas se su "
        "sus le les él ella ellos es son era eran ser está están fue hay ha han en a al con por para como imagen foto "
        "ve ven muestra qué quién dónde cuándo cuál cuánto cuántos cuántas algo",
        "it": "il lo la i gli le un uno una di del della dei delle e o ma se che chi è sono era erano essere ha hanno "
        "c in nel nella a al alla con per da come immagine foto vede questo questa",
        "pt": "o a os as um uma de do da dos das e ou mas se que quem é são era foi está estão ser há tem em no na nos "
        "nas ao com por para como imagem foto este esta isso",
        "ru": "и а но или если что кто который какой какого какую какая какое какие "
        "это этот эта эти он она оно они его её их мы вы "
        "я у в во на с со к по о об от из для за под при как есть был была было были быть же бы ли то там тут здесь "
        "изображении картинке фото видно нём ней",
        "zh": "的 了 着 是 在 有 个 这 那 它 他 她 们 也 就 都 和 与 及 或 吗 呢 吧 啊 之 而 被 把 从 到 里 中 只 条 "
        "张 辆 位 名 件 匹 座 图 片 一 什 么 哪 谁 几 多 少 怎 样 为 用 看 见 可 以 某 些 于 并 穿",
        "ja": "の は が を に で と す ま て だ し る い な か も さ た へ や ら れ こ そ う よ ね 何 誰 画 像",
        "ko": "은 는 이 가 을 를 에 의 와 과 도 로 그 저 이것 그것 있습니다 입니다 보입니다 있는 하는 수 것 "
        "무슨 무엇을 누가",
        "ar": "في من على إلى عن مع و أو هذا هذه ذلك تلك هو هي هم إن إنها إنه ما كان كانت الذي التي لون الصورة يوجد",
        "hi": "का के की को में से पर है हैं था थे थी और या एक यह वह इस उस ये वे क्या कौन कहाँ कब",
    }.items()
}


SCRIPTS = {
    language: re.compile(f"[{first}-{last}]")
    for language, first, last in (
        ("ru", "\u0400", "\u04ff"), ("zh", "\u4e00", "\u9fff"), ("ko", "\uac00", "\ud7a3"),
        ("ar", "\u0600", "\u06ff"), ("hi", "\u0900", "\u097f"),
    )
}  # fmt: skip
"""Letters that stand for one of the languages, where no function word tells."""
_KANA = re.compile("[\u3040-\u30ff]")


@lru_cache(maxsize=512)
def languages_of(text: str) -> tuple[str, ...]:
    """The language whose function words a text has most of, two where they tie; () where it has none.

    >>> languages_of("What is the man holding?"), languages_of("Was hält der Mann?"), languages_of("x")
    (('en',), ('de',), ())
    """
    if not text.isascii() and _KANA.search(text):
        return ("ja",)
    words = set(tokens(text))
    hits = {language: len(words & known) for language, known in FUNCTION_WORDS.items()}
    most = max(hits.values())
    if most:
        return tuple(language for language, count in hits.items() if count == most)[:2]
    return () if text.isascii() else tuple(name for name, letters in SCRIPTS.items() if letters.search(text))
