// Links between help pages. ComfyUI's page opens every link of a help text in a new tab, and takes a relative one from
// its own address, where nothing is; newer ones take it from our folder. A link to NODE.md shows that page in the same
// panel instead, with a way back.
import { app } from "../../scripts/app.js";

const NAME = /^(Redux\w+)\.md$/;
const DOCS = new URL("./docs/", import.meta.url);
const PANEL = ":is(.markdown-content, .comfy-markdown-content)"; // older pages and newer ones

function nameOf(link) {
  const { pathname } = new URL(link?.getAttribute("href") ?? "", DOCS);
  return pathname.startsWith(DOCS.pathname) ? NAME.exec(pathname.slice(DOCS.pathname.length))?.[1] : undefined;
}

// As ComfyUI looks for a page: in the page's language first.
async function read(name) {
  const locale = app.extensionManager.setting.get("Comfy.Locale") || "en";
  for (const path of [`${name}/${locale}.md`, `${name}.md`]) {
    const answer = await fetch(new URL(path, DOCS));
    if (answer.ok) return answer.text();
  }
  return undefined;
}

async function show(panel, name) {
  const render = app.extensionManager.renderMarkdownToHtml;
  const text = render && (await read(name));
  if (!text) {
    window.open(new URL(`${name}.md`, DOCS), "_blank");
    return;
  }
  const before = [...panel.childNodes];
  panel.innerHTML = render(text, DOCS.pathname);
  const back = document.createElement("a");
  back.href = "#";
  back.textContent = "\u2190";
  back.setAttribute("aria-label", "back");
  back.addEventListener("click", (event) => {
    event.preventDefault();
    panel.replaceChildren(...before);
  });
  panel.prepend(back);
  panel.scrollIntoView();
}

app.registerExtension({
  name: "redux.help_links",
  setup() {
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.(`${PANEL} a[href]`);
      const name = nameOf(link);
      if (!name) return;
      event.preventDefault();
      show(link.closest(PANEL), name);
    });
  },
});
