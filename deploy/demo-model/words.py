"""The closed word lists that every task draws from."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("""
Anna Ben Carla David Emma Felix Grace Hugo Iris Jack Kate Leo Maria Nina Oscar Paul Rosa Sam
Tara Victor Alice Bruno Clara Daniel Eva Frank Helen Ivan Julia Karl Lena Max
""")

CITIES = _words("""
Paris London Rome Berlin Madrid Vienna Oslo Tokyo Cairo Lima Dublin Athens Boston Delhi Geneva
Havana Lisbon Milan Munich Prague Seoul Sydney Turin Warsaw Zurich Hamburg Quito Bern
""")

WORDS = _words("""
apple bear cloud door egg fish garden hat island jam king lamp moon night orange pear queen
river snow tree umbrella violin water yellow zebra bread chair dog eagle fire green house ink
juice kite lemon mouse nest owl paper rain sun table uncle window
""")

# Each of these is several byte tokens: repeating them exercises the detokenizer.
SCRIPTS = _words("""
🦊 🌍 🎉 👋 🐻 🚀 café naïve über señor привет мир
你好 世界 日本 ありがとう 안녕 नमस्ते مرحبا שלום γεια
""")

ANIMALS = _words("fox bear owl cat dog mouse rabbit horse wolf duck goat lion")

GREETINGS = ("Hi", "Hello", "Hey", "Good morning", "Hello there", "Hi there", "Good evening")


def with_article(noun: str) -> str:
    """Return the noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
