"""Templates of FLUX.1's other models: schnell, Fill, Kontext, and dev with a ControlNet.

The miniature is none of them. *Load FLUX* takes it where they are missing, and says so on itself; a ControlNet, for
which nothing can stand in, is bypassed until somebody has put one there.
"""

from __future__ import annotations

from .template_plan import (
    AUTOMATIC,
    BYPASSED,
    CONTROLNET,
    GHOST,
    MUTED,
    NARROW,
    SMALL_PICTURE,
    UMBRELLA,
    Link,
    Plan,
    apply,
    models,
    picture,
    reference,
    text,
    variation,
)


def schnell() -> Plan:
    plan = variation("green background", prefer=f"{AUTOMATIC}: schnell", steps=4)
    plan.nodes["redux"].collapsed = True
    plan.app.append(("sample", "steps"))
    return plan


def picture_and_reference(plan: Plan) -> Link:
    """A picture that is worked on, and another whose tokens are given."""
    plan.add("image1", "LoadImage", "Picture", (0, 1), image=GHOST)
    tokens = reference(plan, 2, UMBRELLA)
    plan.nodes["image1"].height = SMALL_PICTURE
    plan.nodes["image2"].title, plan.nodes["encode2"].title = "Reference", "Encode Reference"
    plan.group("2  Picture and reference", "image1", "image2", "encode2")
    return tokens


def inpaint() -> Plan:
    """A picture, what is painted anew in it, and what it is painted like; the size is the model's own."""
    plan = Plan(columns=NARROW, note=(5, 1))
    models(plan, f"{AUTOMATIC}: Fill", small=True)
    conditioning = text(plan, "", (3, 0))
    tokens = picture_and_reference(plan)
    applied = apply(plan, "apply", "Apply Redux", (2, 0), conditioning, tokens)
    scaled = plan.add("scale", "ImageScale", "To the model's size", (3, 0), image=("image1", 0), width=("size", 1),
                      height=("size", 2), upscale_method="lanczos", crop="center")  # fmt: skip
    plan.nodes["scale"].collapsed = True
    mask = plan.add("regions", "ReduxRegions", "What is painted anew", (2, 1), layout="drawn boxes",
                    boxes="50, 0, 50, 100", background=("image1", 0))  # fmt: skip
    guided = plan.add("guidance", "FluxGuidance", "Guidance of Fill", (3, 0), conditioning=applied,
                      guidance=30.0)  # fmt: skip
    plan.group("4  Settings", "apply", "scale", "regions", "guidance", "inpaint", "size")
    plan.add("inpaint", "InpaintModelConditioning", "Inpaint", (3, 0), positive=guided, negative=("negative", 0),
             vae=("flux", 2), pixels=scaled, mask=mask, noise_mask=True)  # fmt: skip
    soft = plan.add("soft", "DifferentialDiffusion", "Soft mask edges", (4, 0), model=("flux", 0), strength=1.0)
    plan.nodes["soft"].collapsed = True
    picture(plan, ("inpaint", 0), 4, model=soft, negative=("inpaint", 1), latent_image=("inpaint", 2))
    plan.groups["5  Picture"].append("soft")
    plan.app = [
        ("image1", "image"),
        ("image2", "image"),
        ("prompt", "text"),
        ("regions", "boxes"),
        ("apply", "strength"),
        ("guidance", "guidance"),
    ]
    return plan


def kontext() -> Plan:
    """A picture that Kontext edits, weighed, and a reference beside it."""
    plan = Plan(columns=NARROW, note=(5, 1))
    models(plan, f"{AUTOMATIC}: Kontext", small=True)
    conditioning = text(plan, "green background", (2, 0))
    tokens = picture_and_reference(plan)
    plan.nodes["size"].inputs |= {"aspect_ratio": "as the reference", "aspect_ratio.image": ("image1", 0)}
    scaled = plan.add("scale", "ImageScale", "To the model's size", (2, 0), image=("image1", 0), width=("size", 1),
                      height=("size", 2), upscale_method="lanczos", crop="center")  # fmt: skip
    latent = plan.add("latent", "VAEEncode", "Picture to latent", (2, 0), pixels=scaled, vae=("flux", 2))
    given = plan.add("given", "ReferenceLatent", "Set Reference Latent", (2, 0), conditioning=conditioning,
                     latent=latent)  # fmt: skip
    for node in ("scale", "latent"):
        plan.nodes[node].collapsed = True
    weighed = plan.add("weigh", "ReduxWeighLatents", "Weigh the picture", (2, 0), conditioning=given, picture=0,
                       strength=1.0)  # fmt: skip
    applied = apply(plan, "apply", "Apply Redux", (3, 0), weighed, tokens, strength=0.5)
    guided = plan.add("guidance", "FluxGuidance", "Guidance of Kontext", (3, 0), conditioning=applied,
                      guidance=2.5)  # fmt: skip
    plan.group("4  Settings", "scale", "latent", "given", "weigh", "apply", "guidance", "size")
    picture(plan, guided, 4)
    plan.app = [("image1", "image"), ("image2", "image"), ("prompt", "text"), ("weigh", "strength")]
    plan.app.append(("apply", "strength"))
    return plan


def controlnet() -> Plan:
    """Edges of a picture and the looks of a reference; a ControlNet does not come with the pack, so it is bypassed."""
    plan = Plan(columns=NARROW, note=(5, 1))
    models(plan, small=True)
    conditioning = text(plan, "plain yellow background", (3, 1))
    plan.add("image1", "LoadImage", "Picture with the edges", (0, 1), image=UMBRELLA)
    tokens = reference(plan, 2, GHOST)
    plan.nodes["image1"].height = SMALL_PICTURE
    plan.nodes["image2"].title, plan.nodes["encode2"].title = "Reference", "Encode Reference"
    edges = plan.add("edges", "Canny", "Edges", (0, 2), image=("image1", 0), low_threshold=0.1, high_threshold=0.3)
    plan.nodes["edges"].collapsed = True
    plan.group("2  Edges and reference", "image1", "edges", "image2", "encode2")
    network = plan.add("network", "ControlNetLoader", "Load ControlNet", (2, 0), control_net_name=CONTROLNET)
    held = plan.add("control", "ControlNetApplyAdvanced", "Apply ControlNet", (2, 0), positive=conditioning,
                    negative=("negative", 0), control_net=network, image=edges, vae=("flux", 2), strength=0.7,
                    start_percent=0.0, end_percent=0.8)  # fmt: skip
    plan.nodes["network"].mode, plan.nodes["control"].mode = MUTED, BYPASSED
    plan.add("shown", "PreviewImage", "What it reads", (2, 1), images=edges)
    plan.nodes["shown"].height = 280
    applied = apply(plan, "apply", "Apply Redux", (3, 0), held, tokens)
    plan.group("4  Settings", "network", "control", "shown", "apply", "size")
    picture(plan, applied, 4, negative=("control", 1))
    plan.app = [("image1", "image"), ("image2", "image"), ("prompt", "text"), ("apply", "strength")]
    return plan
