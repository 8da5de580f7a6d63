"""The graphs of the templates: which nodes, and what is set in them.

Every graph runs as it opens: its loaders take what is installed, its sizes are the model's own, and its pictures are
laid out in ComfyUI's input folder by the pack.
"""

from __future__ import annotations

from collections.abc import Callable

from .template_other_models import controlnet, inpaint, kontext, schnell
from .template_plan import (
    BYPASSED,
    GHOST,
    HEIGHTS,
    MUTED,
    NARROW,
    SMALL_PICTURE,
    UMBRELLA,
    Plan,
    apply,
    models,
    pair,
    picture,
    text,
    two,
    variation,
)


def restyle() -> Plan:
    plan = variation(
        "flat style, striped pink background", {"fit": "native"}, strength=0.5, end_percent=0.8, curve="ease out"
    )
    plan.app.append(("apply", "end_percent"))
    return plan


def part() -> Plan:
    plan = Plan(columns=NARROW, note=(5, 1))
    models(plan, small=True)
    conditioning = text(plan, "green background", (3, 1))
    plan.nodes["redux"].column = 0
    image = plan.add("image", "LoadImage", "Reference", (0, 1), image=UMBRELLA)
    mask = plan.add("regions", "ReduxRegions", "What is read", (1, 1), layout="drawn boxes", boxes="10, 0, 80, 50",
                    background=image)  # fmt: skip
    tokens = plan.add("encode", "ReduxEncode", "Encode Reference", (2, 0), redux=("redux", 0), image=image,
                      fit="stretch", mask=mask, crop_to_mask=True, margin=0.1)  # fmt: skip
    plan.nodes["encode"].height = 400
    pooled = plan.add("pool", "ReduxPool", "Pool Reference", (2, 1), tokens=tokens, rows=6, columns=6)
    plan.group("2  Part of the reference", "image", "regions")
    applied = apply(plan, "apply", "Apply Redux", (3, 0), conditioning, pooled)
    plan.group("4  Settings", "apply", "size")
    picture(plan, applied, 4)
    plan.app = [("image", "image"), ("regions", "boxes"), ("prompt", "text"), ("apply", "strength")]
    return plan


def mix() -> Plan:
    plan, conditioning, tokens = pair("side by side")
    grown = {f"tokens.reference_{number}": given for number, given in enumerate(tokens)}
    mixed = plan.add("mix", "ReduxMix", "Mix References", (2, 0), **grown, method="join", weights="1, 1")
    applied = apply(plan, "apply", "Apply Redux", (3, 0), conditioning, mixed)
    plan.group("4  Settings", "mix", "apply", "size")
    picture(plan, applied, 4)
    plan.app += [("mix", "weights"), ("apply", "strength")]
    return plan


def regions() -> Plan:
    plan = two("side by side", {"region": ("regions", 0)}, {"region": ("regions", 1)})
    plan.add("regions", "ReduxRegions", "Draw the regions", (2, 1), layout="left, right")
    plan.groups["4  Settings"].append("regions")
    plan.app.append(("regions", "layout"))
    return plan


def influence() -> Plan:
    plan = two("side by side, striped blue background", {}, {})
    plan.note = (2, 2)
    plan.add("map", "ReduxInfluence", "Where each one acted", (5, 1), conditioning=("apply2", 0), images=("decode", 0))
    plan.nodes["save"].height, plan.nodes["map"].height = 350, 440
    plan.groups["5  Picture"].append("map")
    return plan


def sweep() -> Plan:
    """Strengths side by side, in one sampling."""
    plan = variation("striped pink background")
    del plan.nodes["apply"]
    swept = plan.add("sweep", "ReduxSweep", "Redux Sweep", (2, 0), conditioning=("prompt", 0), tokens=("encode", 0),
                     latent=("size", 0), values="0, 0.2, 0.4, 0.6, 0.8, 1", response="even")  # fmt: skip
    plan.nodes["sample"].inputs |= {"positive": swept, "latent_image": ("sweep", 1)}
    sheet = plan.add("sheet", "ReduxSweepSheet", "Sheet", (4, 0), images=("decode", 0), labels=("sweep", 2), columns=3)
    plan.nodes["sheet"].collapsed = True
    plan.nodes["save"].inputs["images"] = sheet
    plan.nodes["save"].title = "All on one sheet"
    plan.nodes["save"] = plan.nodes.pop("save")  # below the sheet
    plan.groups["4  Strength"] = ["sweep"]
    plan.groups["5  Picture"].append("sheet")
    plan.app = [("image", "image"), ("prompt", "text"), ("sweep", "values")]
    return plan


def batch() -> Plan:
    plan = Plan(columns=NARROW, note=(5, 1))
    models(plan, small=True)
    conditioning = text(plan, "plain yellow background", (3, 1), batch_size=2)
    for number, image in ((1, GHOST), (2, UMBRELLA)):
        plan.add(f"image{number}", "LoadImage", f"Reference {number}", (number - 1, 1), image=image)
        plan.nodes[f"image{number}"].height = SMALL_PICTURE
    both = plan.add("both", "BatchImagesNode", "Both in one batch", (2, 0),
                    images__image0=("image1", 0), images__image1=("image2", 0))  # fmt: skip
    plan.nodes["both"].collapsed = True
    plan.group("2  References", "image1", "image2")
    tokens = plan.add(
        "encode", "ReduxEncode", "Encode References", (2, 0), redux=("redux", 0), image=both, fit="stretch"
    )
    plan.nodes["encode"].height = 400
    applied = apply(plan, "apply", "Apply Redux", (3, 0), conditioning, tokens, batch="per image")
    plan.group("4  Settings", "both", "encode", "apply", "size")
    picture(plan, applied, 4)
    plan.app = [("image1", "image"), ("image2", "image"), ("prompt", "text"), ("apply", "strength")]
    return plan


def upscale() -> Plan:
    """The picture at its size, then at twice its sides from the enlarged latent; the reference holds the content."""
    plan = variation("")
    plan.columns, plan.note = NARROW, (5, 1)
    plan.nodes["decode"].column = plan.nodes["save"].column = 5
    larger = plan.add("larger", "LatentUpscaleBy", "Twice the sides", (3, 1), samples=("sample", 0),
                      upscale_method="bicubic", scale_by=2.0)  # fmt: skip
    again = {name: value for name, value in plan.nodes["sample"].inputs.items() if name != "latent_image"}
    plan.add("again", "KSampler", "Sample again", (4, 0), **{**again, "denoise": 0.3, "latent_image": larger})
    plan.nodes["decode"].inputs["samples"] = ("again", 0)
    plan.nodes["decode"].kind = "VAEDecodeTiled"
    plan.nodes["decode"].title = "Decode"
    plan.nodes["decode"].inputs |= {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    plan.groups["5  Picture"] += ["larger", "again"]
    plan.app.append(("again", "denoise"))
    return plan


def saved() -> Plan:
    plan = variation("green background")
    plan.add(
        "keep", "ReduxSaveTokens", "Save Reference", (2, 1), tokens=("encode", 0), filename_prefix="redux/reference"
    )
    plan.add("keep_all", "ReduxSaveConditioning", "Save Conditioning", (3, 1), conditioning=("apply", 0),
             filename_prefix="redux/conditioning")  # fmt: skip
    plan.add("load", "ReduxLoadTokens", "Next time: Load Reference", (2, 2),
             file="redux/reference_00001_.safetensors [output]")  # fmt: skip
    plan.add("load_all", "ReduxLoadConditioning", "Next time: Load Conditioning", (3, 2),
             file="redux/conditioning_00001_.safetensors [output]")  # fmt: skip
    for key in ("load", "load_all"):
        plan.nodes[key].mode = MUTED
    plan.nodes["save"].height = 530
    plan.groups["4  Strength"] += ["keep", "load"]
    plan.groups["5  Picture"] += ["keep_all", "load_all"]
    return plan


def finish() -> Plan:
    plan = variation("green background")
    plan.nodes["size"].inputs |= {"aspect_ratio": "as the reference", "aspect_ratio.image": ("image", 0)}
    plan.add("safety", "ReduxSafetyCheck", "Safety Check", (4, 0), images=("decode", 0), threshold=0.8, action="blank")
    plan.nodes["safety"].mode, plan.note = BYPASSED, (2, 2)
    save = plan.nodes["save"] = plan.nodes.pop("save")  # below the check
    save.kind, save.height = "ReduxSaveImage", HEIGHTS["ReduxSaveImage"]
    save.inputs |= {"images": ("safety", 0), "format": "webp", "quality": 90}
    plan.groups["5  Picture"].append("safety")
    plan.app += [("size", "megapixels"), ("save", "format")]
    return plan


def negative() -> Plan:
    """The reference stands in the negative, which a sampler reads above cfg 1."""
    plan = variation("a cat")
    plan.nodes["image"].inputs["image"] = UMBRELLA
    plan.nodes["negative"].collapsed, plan.nodes["negative"].title = False, "Negative"
    plan.nodes["size"] = plan.nodes.pop("size")  # below Apply Redux
    plan.nodes["size"].column = 2
    del plan.groups["3  Prompt and size"], plan.groups["4  Strength"]
    plan.group("3  Prompts", "prompt", "negative")
    plan.group("4  Settings", "apply", "size")
    plan.nodes["apply"].inputs["conditioning"] = ("negative", 0)
    plan.nodes["sample"].inputs |= {"positive": ("prompt", 0), "negative": ("apply", 0), "cfg": 2.0}
    plan.app.append(("sample", "cfg"))
    return plan


PLANS: dict[str, Callable[[], Plan]] = {
    "variation": variation,
    "restyle": restyle,
    "sweep": sweep,
    "regions": regions,
    "influence": influence,
    "mix": mix,
    "batch": batch,
    "part": part,
    "schnell": schnell,
    "inpaint": inpaint,
    "kontext": kontext,
    "controlnet": controlnet,
    "upscale": upscale,
    "saved": saved,
    "finish": finish,
    "negative": negative,
}
