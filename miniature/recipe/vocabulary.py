"""The words that the miniature knows: objects, groups, styles, backgrounds, patterns, places and sizes.

A word is one row of the table in `redux-mini-words.safetensors`; it may be a phrase ("red apple", "blue background").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

STYLES = ("noto", "twemoji", "fluent", "flat")

# sRGB, 0..255
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 60, 60),
    "orange": (240, 150, 60),
    "yellow": (245, 220, 90),
    "green": (90, 180, 90),
    "teal": (60, 170, 170),
    "blue": (70, 110, 220),
    "purple": (150, 90, 200),
    "pink": (240, 150, 190),
    "white": (245, 245, 245),
    "gray": (140, 140, 140),
    "black": (30, 30, 35),
    "brown": (140, 95, 60),
}
PATTERNS = ("plain", "striped", "dotted", "checkered", "gradient")
PLACES = ("center", "left", "right", "top", "bottom")
SIZES = ("small", "large")
ARRANGEMENTS = ("side by side", "stacked")

# Groups by what a name is or ends with; the first that matches counts.
GROUPS: dict[str, str] = {
    "fruit": "grapes|melon|watermelon|tangerine|lemon|lime|banana|pineapple|mango|red-apple|green-apple|pear|peach|"
    "cherries|strawberry|blueberries|kiwi-fruit|coconut|avocado|olive",
    "vegetable": "tomato|eggplant|potato|carrot|ear-of-corn|hot-pepper|bell-pepper|cucumber|leafy-green|broccoli|"
    "garlic|onion|beans|pea-pod|ginger-root|roasted-sweet-potato|brown-mushroom|mushroom",
    "dessert": "soft-ice-cream|shaved-ice|ice-cream|doughnut|cookie|birthday-cake|shortcake|cupcake|pie|chocolate-bar|"
    "candy|lollipop|custard|dango|moon-cake|pancakes|waffle",
    "drink": "baby-bottle|glass-of-milk|hot-beverage|teapot|teacup-without-handle|sake|bottle-with-popping-cork|"
    "wine-glass|cocktail-glass|tropical-drink|beer-mug|clinking-beer-mugs|clinking-glasses|tumbler-glass|"
    "cup-with-straw|bubble-tea|beverage-box|mate",
    "bird": "bird|dove|duck|eagle|swan|owl|dodo|flamingo|peacock|parrot|penguin|chicken|rooster|turkey|goose|"
    "baby-chick|hatching-chick|front-facing-baby-chick",
    "fish": "fish|tropical-fish|blowfish|shark|dolphin|whale|spouting-whale|seal|octopus|squid|crab|lobster|shrimp|"
    "jellyfish|oyster|spiral-shell",
    "insect": "ant|bug|butterfly|honeybee|beetle|lady-beetle|cricket|cockroach|mosquito|fly|worm|spider|scorpion|snail",
    "plant": "bouquet|cherry-blossom|blossom|white-flower|lotus|rosette|rose|wilted-flower|hibiscus|sunflower|tulip|"
    "hyacinth|seedling|potted-plant|evergreen-tree|deciduous-tree|palm-tree|cactus|sheaf-of-rice|herb|shamrock|"
    "four-leaf-clover|maple-leaf|fallen-leaf|leaf-fluttering-in-wind|christmas-tree|pine-decoration|tanabata-tree",
    "clock": ".*-oclock|.*-thirty|watch|alarm-clock|stopwatch|timer-clock|mantelpiece-clock",
    "vehicle": "automobile|oncoming-.*(car|bus|taxi|automobile)|taxi|bus|minibus|trolleybus|ambulance|fire-engine|"
    "police-car|delivery-truck|articulated-lorry|tractor|racing-car|motorcycle|motor-scooter|bicycle|kick-scooter|"
    "auto-rickshaw|pickup-truck|sport-utility-vehicle|train|tram|tram-car|metro|monorail|bullet-train|high-speed-train|"
    "locomotive|railway-car|light-rail|station|airplane|small-airplane|helicopter|rocket|flying-saucer|sailboat|canoe|"
    "speedboat|ferry|ship|motor-boat|passenger-ship",
    "building": "house|houses|house-with-garden|hut|castle|japanese-castle|church|mosque|synagogue|hindu-temple|kaaba|"
    "shinto-shrine|hotel|love-hotel|hospital|bank|school|factory|office-building|department-store|convenience-store|"
    "post-office|japanese-post-office|classical-building|stadium|derelict-house|wedding|tokyo-tower|statue-of-liberty",
    "tool": "hammer|axe|pick|hammer-and-.*|wrench|screwdriver|carpentry-saw|nut-and-bolt|clamp|ladder|toolbox|gear|"
    "magnet|scissors|broom|plunger|bucket|fire-extinguisher",
    "clothes": "t-shirt|jeans|dress|coat|scarf|gloves|socks|kimono|sari|shorts|bikini|necktie|lab-coat|safety-vest|"
    "running-shirt|one-piece-swimsuit|briefs|womans-clothes|.*-shoe|.*-boot|.*-sandal|ballet-shoes|.*-hat|billed-cap|"
    "military-helmet|rescue-workers-helmet|crown|graduation-cap",
    "instrument": "guitar|banjo|violin|saxophone|trumpet|accordion|drum|long-drum|flute|maracas|musical-keyboard|"
    "postal-horn",
    "sport": ".*-medal|trophy|soccer-ball|baseball|softball|basketball|volleyball|american-football|rugby-football|"
    "tennis|flying-disc|bowling|cricket-game|field-hockey|ice-hockey|lacrosse|ping-pong|badminton|boxing-glove|"
    "martial-arts-uniform|goal-net|ice-skate|skis|sled|curling-stone|bullseye|pool-8-ball",
    "zodiac": "aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus",
    "arrow": ".*-arrow|.*-arrow-curving-.*|.*-arrows(-button)?",
    "sky": "sun|sun-.*|cloud|cloud-.*|.*-moon|.*-moon-face|star|glowing-star|shooting-star|rainbow|comet|ringed-planet|"
    "snowflake|tornado|umbrella.*|high-voltage|droplet|globe-.*|milky-way",
    "emoticon": ".*-face|face-.*|.*-face-.*|grinning-.*|smiling-.*|kissing-.*|winking-.*|star-struck|exploding-head|"
    "rolling-on-the-floor-laughing|.*-cat",
    "hearts": ".*heart.*|two-hearts",
    "gesture": ".*-hand|.*-hands|.*-fist|.*-fingers|thumbs-.*|backhand-.*|index-.*|.*-gesture|vulcan-salute|"
    "sign-of-the-horns|flexed-biceps|handshake",
    "people": "man|man-.*|woman|woman-.*|person|person-.*|boy|girl|child|baby|.*-person|old-.*|pregnant-.*|princ.*|"
    "artist|astronaut|cook|detective|farmer|firefighter|judge|pilot|scientist|singer|student|teacher|technologist|"
    "mechanic|guard|ninja|santa-claus|m[rx]s?-claus|.*-worker|police-officer",
}
# Groups by noto's own categories, for what is in none of the above.
CATEGORIES = {
    "Animals & Nature": "animal",
    "Food & Drink": "food",
    "Symbols": "symbol",
    "Flags": "symbol",
    "Objects": "thing",
    "Travel & Places": "scenery",
    "Activities": "leisure",
    "People & Body": "people",
    "Smileys & Emotion": "emoticon",
}

# Further spellings of a word; they share its row's values.
ALIASES = {
    "apple": "red apple",
    "car": "automobile",
    "heart": "red heart",
    "book": "closed book",
    "bike": "bicycle",
    "plane": "airplane",
    "burger": "hamburger",
    "boat": "sailboat",
    "phone": "mobile phone",
    "tv": "television",
    "tree": "deciduous tree",
    "moon": "crescent moon",
    "computer": "laptop",
    "bee": "honeybee",
    "ladybug": "lady beetle",
    "mug": "beer mug",
    "cake": "birthday cake",
    "ice cream cone": "soft ice cream",
    "grey background": "gray background",
    "stripes": "striped",
    "dots": "dotted",
    "spotted": "dotted",
    "polka dot": "dotted",
    "checked": "checkered",
    "chequered": "checkered",
    "centre": "center",
    "middle": "center",
    "big": "large",
    "little": "small",
    "beside": "side by side",
    "next to": "side by side",
    "above": "stacked",
    "below": "stacked",
    "on top of": "stacked",
    "glossy style": "fluent style",
    "google style": "noto style",
    "twitter style": "twemoji style",
}


@dataclass(frozen=True)
class Vocabulary:
    """All words and, for every attribute of a scene, the row of its word.

    Attributes:
        words: row 0 is "", the empty prompt.
        objects, groups: row for each concept.
        styles, colours, patterns, places, sizes, arrangements: row for each value, in the order of the constants.
    """

    words: tuple[str, ...]
    objects: tuple[int, ...]
    groups: tuple[int, ...]
    styles: tuple[int, ...]
    colours: tuple[int, ...]
    patterns: tuple[int, ...]
    places: tuple[int, ...]
    sizes: tuple[int, ...]
    arrangements: tuple[int, ...]

    def entries(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The exported table: its words, and for each the row that holds its values.

        After the words stand the aliases, which never hide a word, and then every spelling of a style once more: two
        tokens for a style let it win over a reference that shows another one (miniature/README.md has the figures).
        """
        rows = {word: row for row, word in enumerate(self.words)}
        entries = [*rows.items()]
        entries += [(alias, rows[word]) for alias, word in ALIASES.items() if word in rows and alias not in rows]
        entries += [(word, row) for word, row in entries if row in self.styles]
        return tuple(word for word, _ in entries), tuple(row for _, row in entries)


def group_of(name: str, category: str) -> str:
    """The group word of a concept, e.g. "red-apple" -> "fruit"."""
    for group, pattern in GROUPS.items():
        if re.fullmatch(pattern, name):
            return group
    return CATEGORIES[category]


def phrase(name: str) -> str:
    """How a concept is written in a prompt, e.g. "red-apple" -> "red apple"."""
    return name.replace("-", " ")


def build_vocabulary(names: Sequence[str], categories: Sequence[str]) -> Vocabulary:
    """The vocabulary of concepts (icon names, with noto's category for each)."""
    words = [""]

    def add(items: Sequence[str]) -> tuple[int, ...]:
        known = {word: row for row, word in enumerate(words)}
        for item in items:
            if item not in known:
                known[item] = len(words)
                words.append(item)
        return tuple(known[item] for item in items)

    rows = {
        "objects": add([phrase(name) for name in names]),
        "groups": add([group_of(name, category) for name, category in zip(names, categories, strict=True)]),
        "styles": add([f"{style} style" for style in STYLES]),
        "colours": add([f"{colour} background" for colour in COLOURS]),
        "patterns": add(PATTERNS),
        "places": add(PLACES),
        "sizes": add(SIZES),
        "arrangements": add(ARRANGEMENTS),
    }
    return Vocabulary(tuple(words), **rows)
