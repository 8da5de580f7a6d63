// The canvas of "Redux Regions": boxes drawn over the background, written as numbers into the widget "boxes".
// It is a DOM widget, which the page shows in classic rendering and in Nodes 2.0 alike. Without this file the node
// works by its numbers.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const DRAWN = "drawn boxes";
const PREVIEW = "redux_regions";
const MAX_BOXES = 6;
const COLORS = ["#f0a03c", "#5aafeb", "#eb6ea0", "#78cd78", "#b48cf0", "#e1d764"]; // those of the influence map
const LAYOUTS = {
  "left, right": [[0, 0, 50, 100], [50, 0, 50, 100]],
  "top, bottom": [[0, 0, 100, 50], [0, 50, 100, 50]],
  "three columns": [0, 1, 2].map((n) => [(n * 100) / 3, 0, 100 / 3, 100]),
  "three rows": [0, 1, 2].map((n) => [0, (n * 100) / 3, 100, 100 / 3]),
  quarters: [0, 1, 2, 3].map((n) => [50 * (n % 2), 50 * Math.floor(n / 2), 50, 50]),
  "centre, around": [[25, 25, 50, 50]],
};
const SMALLEST = 2; // percent; a shorter drag is a click
const CORNER = 5; // percent from the lower right corner that resize

function parse(text) {
  const lines = String(text).split(/[;\n]/).map((line) => line.trim()).filter(Boolean);
  return lines.map((line) => line.split(/[\s,]+/).map(Number)).filter((box) => box.length === 4 && box.every(Number.isFinite));
}

const round = (value) => Math.round(value * 10) / 10;
const write = (boxes) => boxes.map((box) => box.map(round).join(", ")).join("\n");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** The address of the picture that is connected to the input "background", if the page knows one. */
function backgroundUrl(node) {
  const slot = node.inputs?.findIndex((input) => input.name === "background") ?? -1;
  const source = slot < 0 ? null : node.getInputNode(slot);
  const file = source?.widgets?.find((widget) => widget.name === "image")?.value;
  if (typeof file === "string") {
    const [, folder, name, type] = file.match(/^(?:(.*)\/)?([^/]*?)(?: \[(\w+)\])?$/) ?? [];
    const query = new URLSearchParams({ filename: name, subfolder: folder ?? "", type: type ?? "input" });
    return api.apiURL(`/view?${query}`);
  }
  return source?.imgs?.[0]?.src ?? null;
}

class Editor {
  constructor(node) {
    this.node = node;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "redux-regions";
    this.canvas.style.cssText = "width:100%;height:100%;display:block;touch-action:none;cursor:crosshair";
    this.picture = new Image();
    this.picture.onload = () => this.draw();
    this.result = new Image(); // the regions as they were run, soft edges and all, until something is changed
    this.result.onload = () => this.draw();
    this.drag = null;
    for (const name of ["layout", "boxes", "softness", "width", "height"]) this.follow(this.widget(name));
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", () => this.release());
    this.canvas.addEventListener("dblclick", (event) => this.remove(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  widget(name) {
    return this.node.widgets.find((widget) => widget.name === name);
  }

  follow(widget) {
    const before = widget.callback;
    widget.callback = (...values) => {
      const result = before?.apply(widget, values);
      this.forget();
      this.draw();
      return result;
    };
  }

  get boxes() {
    return LAYOUTS[this.widget("layout").value] ?? parse(this.widget("boxes").value);
  }

  set boxes(boxes) {
    this.widget("layout").value = DRAWN; // drawing changes what a layout gave, so its boxes become one's own
    this.widget("boxes").value = write(boxes);
    this.node.graph?.change?.();
    this.forget();
    this.draw();
  }

  /** Show what a run has made of the boxes. */
  show(file) {
    this.result.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
  }

  forget() {
    this.result.removeAttribute("src");
  }

  /** The rectangle of the picture on the canvas, in the canvas's pixels. */
  frame(width, height) {
    const known = this.picture.complete && this.picture.naturalWidth > 0 && this.picture.src;
    const aspect = known
      ? this.picture.naturalWidth / this.picture.naturalHeight
      : this.widget("width").value / this.widget("height").value;
    const w = Math.min(width, height * aspect);
    return { x: (width - w) / 2, y: (height - w / aspect) / 2, w, h: w / aspect };
  }

  /** Where the pointer is, in percent of the picture. */
  point(event) {
    // As the canvas lay when it was pressed: the page narrows it where its side panel shows the same node.
    const bounds = this.drag?.bounds ?? this.canvas.getBoundingClientRect();
    const frame = this.frame(bounds.width, bounds.height);
    const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
    return [clamp((100 * (x - frame.x)) / frame.w, 0, 100), clamp((100 * (y - frame.y)) / frame.h, 0, 100)];
  }

  hit([x, y]) {
    return this.boxes.findLastIndex(([left, top, w, h]) => x >= left && x <= left + w && y >= top && y <= top + h);
  }

  press(event) {
    event.stopPropagation();
    event.preventDefault();
    this.canvas.setPointerCapture?.(event.pointerId);
    this.drag = null;
    const [start, bounds] = [this.point(event), this.canvas.getBoundingClientRect()];
    const index = this.hit(start);
    const boxes = this.boxes.map((box) => [...box]);
    if (index < 0) {
      if (boxes.length < MAX_BOXES) this.drag = { kind: "new", start, bounds, boxes, index: boxes.length };
      return;
    }
    const [left, top, w, h] = boxes[index];
    const corner = left + w - start[0] < CORNER && top + h - start[1] < CORNER;
    this.drag = { kind: corner ? "size" : "move", start, bounds, boxes, index, from: [left, top, w, h] };
  }

  move(event) {
    if (!this.drag) return;
    event.stopPropagation();
    const { kind, start, boxes, index, from } = this.drag;
    const [x, y] = this.point(event);
    if (kind === "new") {
      const box = [Math.min(x, start[0]), Math.min(y, start[1]), Math.abs(x - start[0]), Math.abs(y - start[1])];
      if (box[2] < SMALLEST || box[3] < SMALLEST) return;
      boxes[index] = box;
    } else if (kind === "move") {
      boxes[index][0] = clamp(from[0] + x - start[0], 0, 100 - from[2]);
      boxes[index][1] = clamp(from[1] + y - start[1], 0, 100 - from[3]);
    } else {
      boxes[index][2] = clamp(from[2] + x - start[0], SMALLEST, 100 - from[0]);
      boxes[index][3] = clamp(from[3] + y - start[1], SMALLEST, 100 - from[1]);
    }
    this.boxes = boxes.filter(Boolean);
  }

  release() {
    this.drag = null;
  }

  remove(event) {
    event.stopPropagation();
    const index = this.hit(this.point(event));
    if (index >= 0) this.boxes = this.boxes.filter((_, other) => other !== index);
  }

  load() {
    const url = backgroundUrl(this.node);
    if (url && this.picture.src !== new URL(url, location.href).href) this.picture.src = url;
    if (!url && this.picture.src) this.picture.removeAttribute("src");
  }

  draw() {
    this.load();
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, this.canvas.clientWidth * ratio);
    this.canvas.height = Math.max(1, this.canvas.clientHeight * ratio);
    const context = this.canvas.getContext("2d");
    const frame = this.frame(this.canvas.width, this.canvas.height);
    context.fillStyle = "#1e1e22";
    context.fillRect(frame.x, frame.y, frame.w, frame.h);
    if (this.picture.src && this.picture.naturalWidth) {
      context.globalAlpha = 0.6;
      context.drawImage(this.picture, frame.x, frame.y, frame.w, frame.h);
      context.globalAlpha = 1;
    }
    if (this.result.src && this.result.complete && this.result.naturalWidth) {
      context.drawImage(this.result, frame.x, frame.y, frame.w, frame.h);
      return;
    }
    this.boxes.forEach((box, index) => this.drawBox(context, frame, box, index, ratio));
    if (!this.boxes.length) this.drawHint(context, frame, ratio);
  }

  drawBox(context, frame, [x, y, w, h], index, ratio) {
    const color = COLORS[index % COLORS.length];
    const place = [frame.x + (x * frame.w) / 100, frame.y + (y * frame.h) / 100, (w * frame.w) / 100, (h * frame.h) / 100];
    context.fillStyle = color + "66";
    context.fillRect(...place);
    context.strokeStyle = color;
    context.lineWidth = 2 * ratio;
    context.strokeRect(...place.map((value, side) => value + (side < 2 ? ratio : -2 * ratio)));
    context.fillStyle = "#fff";
    context.font = `600 ${16 * ratio}px sans-serif`;
    context.textAlign = "left";
    context.fillText(String(index + 1), place[0] + 7 * ratio, place[1] + 20 * ratio);
  }

  drawHint(context, frame, ratio) {
    context.fillStyle = "#a0a2ac";
    context.font = `${13 * ratio}px sans-serif`;
    context.textAlign = "center";
    context.fillText("Drag to draw a region", frame.x + frame.w / 2, frame.y + frame.h / 2);
  }
}

app.registerExtension({
  name: "redux.regions",
  nodeCreated(node) {
    if (node.comfyClass !== "ReduxRegions") return;
    const editor = new Editor(node);
    const options = { serialize: false, hideOnZoom: false, getMinHeight: () => 220 };
    const widget = node.addDOMWidget("canvas", "redux_regions", editor.canvas, options);
    widget.serialize = false; // its boxes are in the widget of that name
    node.setSize?.([Math.max(node.size[0], 340), Math.max(node.size[1], 560)]);
    for (const name of ["onConnectionsChange", "onConfigure", "onExecuted"]) {
      const before = node[name];
      node[name] = function (...values) {
        const result = before?.apply(this, values);
        if (name === "onExecuted" && values[0]?.[PREVIEW]) editor.show(values[0][PREVIEW][0]);
        if (name === "onConnectionsChange") editor.forget();
        requestAnimationFrame(() => editor.draw());
        return result;
      };
    }
  },
});
