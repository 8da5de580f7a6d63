// ComfyUI's page reads the workflow of a dropped PNG or WebP, but not of a JPEG. This reads the EXIF that
// "Save Image (WebP, JPEG, PNG)" writes, and hands everything else on as before.
import { app } from "../../scripts/app.js";

const ASCII = 2;

function readExif(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const parts = [];
  let at = 2;
  // Segments before the picture's data; EXIF that is longer than one goes on in the next.
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const length = view.getUint16(at + 2);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 10));
    if (bytes[at + 1] === 0xe1 && name === "Exif\0\0") parts.push(bytes.subarray(at + 10, at + 2 + length));
    at += 2 + length;
  }
  return new Uint8Array(parts.flatMap((part) => Array.from(part)));
}

function readTexts(exif) {
  const view = new DataView(exif.buffer);
  const little = view.getUint16(0) === 0x4949;
  const first = view.getUint32(4, little);
  const texts = {};
  for (let index = 0; index < view.getUint16(first, little); index++) {
    const entry = first + 2 + 12 * index;
    const count = view.getUint32(entry + 4, little);
    if (view.getUint16(entry + 2, little) !== ASCII || count <= 4) continue;
    const start = view.getUint32(entry + 8, little);
    const text = new TextDecoder().decode(exif.subarray(start, start + count - 1));
    const colon = text.indexOf(":");
    texts[text.slice(0, colon)] = text.slice(colon + 1);
  }
  return texts;
}

async function readGraph(file) {
  try {
    const exif = readExif(await file.arrayBuffer());
    const { workflow, prompt } = exif.length < 8 ? {} : readTexts(exif);
    return { workflow: workflow && JSON.parse(workflow), prompt: prompt && JSON.parse(prompt) };
  } catch (error) {
    // A photograph's EXIF may be anything; then this is a picture and no graph.
    if (error instanceof RangeError || error instanceof SyntaxError) return {};
    throw error;
  }
}

app.registerExtension({
  name: "redux.jpegWorkflow",
  setup() {
    const handleFile = app.handleFile;
    app.handleFile = async function (file, openSource, options) {
      if (file?.type === "image/jpeg") {
        const { workflow, prompt } = await readGraph(file);
        const name = file.name.replace(/\.\w+$/, "");
        const source = { openSource, deferWarnings: options?.deferWarnings };
        if (workflow) return this.loadGraphData(workflow, true, true, name, source);
        if (prompt && this.isApiJson?.(prompt)) return this.loadApiJson(prompt, name);
      }
      return handleFile.call(this, file, openSource, options);
    };
  },
});
