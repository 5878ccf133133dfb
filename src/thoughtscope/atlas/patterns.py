"""What a token, or the text around it, may look like: regular expressions with a name that a person understands.

Kinds of token are tried on the token alone; passages are looked for in the text, and hold for every token in them.
Neither looks ahead of the token by more than the rest of its own passage.
"""

from __future__ import annotations

import re

_SCRIPTS = {
    "Greek": "Ͱ-Ͽ",
    "Cyrillic": "Ѐ-ӿ",
    "Hebrew": "֐-׿",
    "Arabic": "؀-ۿݐ-ݿ",
    "Devanagari": "ऀ-ॿ",
    "Bengali": "ঀ-৿",
    "Tamil": "஀-௿",
    "Thai": "฀-๿",
    "Hangul": "가-힣ᄀ-ᇿ",
    "kana": "぀-ヿ",
    "Chinese characters": "一-鿿㐀-䶿",
}

TOKENS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "a number": r" ?\d+",
        "one digit": r" ?\d",
        "two digits": r" ?\d\d",
        "three digits": r" ?\d{3}",
        "a word that begins here": r" [^\W\d_].*",
        "a word that goes on": r"[^\W\d_].*",
        "a Capitalised word": r" ?[A-Z][a-z]+",
        "a lower-case word": r" ?[a-z]+",
        "CAPITALS": r" ?[A-Z]{2,}",
        "one capital letter": r" ?[A-Z]",
        "one small letter": r" ?[a-z]",
        "a line break": r"[ \t]*[\n\r↵]+.*",
        "blanks": r"[ \t]+",
        "punctuation": r"\s?[^\w\s]+",
        "the end of a sentence": r"[^\w\s]?[.!?…。]+[^\w\s]*",
        "a comma or semicolon": r" ?[,;、，]",
        "a colon": r" ?:",
        "a quotation mark": r"""\s?[^\w\s]*["“”„«»][^\w\s]*""",
        "an apostrophe": r"""\s?['’‘]\w?""",
        "an opening bracket": r"\s?[^\w\s]*[(\[{]",
        "a closing bracket": r"\s?[)\]}][^\w\s]*",
        "a dash": r"\s?[-–—]+",
        "a sign of arithmetic": r" ?[=+*/<>^%×÷−]+",
        "a sign of currency": r" ?[$€£¥₹]",
        "an accented letter": r"\s?.*[À-ɏ].*",
        "part of a character": r".*\\x.*|.*�.*|⟨.*",
        **{f"{name} script": rf"\s?[{letters}].*" for name, letters in _SCRIPTS.items()},
    }.items()
}
"""By name: the whole of one token."""

PASSAGES: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.MULTILINE)
    for name, pattern in {
        "the first word of a sentence": r"(?<=[.!?] )[^\W\d_]+",
        "the first word of a line": r"^[ \t]*[^\W\d_]+",
        "a name of two words": r"\b[A-Z][a-z]+ [A-Z][a-z]+\b",
        "a title before a name": r"\b(?:Mr|Mrs|Ms|Dr|Sir|Lord|Lady|Prof|St)\b\.?",
        "a name after a title": r"(?<=\b(?:Mr|Ms|Dr|St)\. )[A-Z]\w+",
        "a quotation": r"[“\"][^”\"\n]{1,300}",
        "brackets": r"\([^()\n]{1,200}",
        "a year": r"\b(?:1[5-9]|20)\d\d\b",
        "a decimal number": r"\b\d+\.\d+",
        "a number with thousands": r"\b\d{1,3}(?:,\d{3})+",
        "an amount of money": r"[$€£¥]\s?\d[\d,.]*",
        "a share in per cent": r"\b\d[\d.,]*\s?%",
        "a time of day": r"\b\d{1,2}:\d\d\b",
        "an ordinal": r"\b\d+(?:st|nd|rd|th)\b",
        "a sum": r"\d+\s*[-+*/×÷]\s*\d+",
        "what follows an equals sign": r"(?<==)\s?\S+",
        "an address on the web": r"\b(?:https?://|www\.)\S+",
        "an address of mail": r"\b[\w.+-]+@[\w.-]+",
        "a tag of markup": r"</?\w[^<>\n]{0,200}>?",
        "a heading": r"^#{1,6} [^\n]*",
        "an item of a list": r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t][^\n]*",
        "the mark of a list's item": r"^[ \t]*(?:[-*•]|\d{1,3}[.)])",
        "bold or italics": r"\*{1,2}[^*\n]{1,100}",
        "code between back-ticks": r"`[^`\n]{1,200}",
        "a call": r"\b\w+\([^()\n]{0,100}",
        "snake_case": r"\b[A-Za-z]+(?:_[A-Za-z0-9]+)+",
        "camelCase": r"\b[a-z]+(?:[A-Z][a-z0-9]+)+",
        "a line in CAPITALS": r"^[^a-z\n]*[A-Z]{3}[^a-z\n]*$",
        "hexadecimal": r"\b(?:0x)?(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b",
        "base64": r"(?=[A-Za-z0-9+/]*[a-z])(?=[A-Za-z0-9+/]*[A-Z])(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/]{16,}={0,2}",
        "DNA": r"[ACGT]{6,}",
        "a formula": r"\$[^$\n]{1,200}",
        "a speaker's name": r"^[A-Z][\w ]{0,20}:",
    }.items()
}
"""By name: a stretch of the text."""
