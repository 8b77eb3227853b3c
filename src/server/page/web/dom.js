// Small helpers over the document. Nothing here, or anywhere in this page, makes elements of text.

/** An element with properties, attributes (names with a dash, and role) and children. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, value);
    else if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** One of the page's symbols. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.classList.add("icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows only a symbol. */
export function tool(name, label, onclick) {
  return el("button", { type: "button", class: "tool small", "aria-label": label, title: label, onclick }, icon(name));
}

/** Puts text on the clipboard; whether that worked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not offered by plain HTTP from another machine.
    const area = el("textarea", { value: text, class: "sr", "aria-hidden": "true" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** A button that copies what `text` gives, and shows for a while that it has. */
export function copyButton(text, label, say) {
  const button = tool("copy", label, async () => {
    const done = await copy(text());
    say(done ? "Copied" : "The browser did not let the page copy");
    if (!done) return;
    button.replaceChildren(icon("done"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Lets what can be scrolled sideways be reached by the keyboard, and nothing else. */
export function reachScrollers(root) {
  for (const node of root.querySelectorAll(".scroller")) {
    if (node.scrollWidth > node.clientWidth + 1) node.tabIndex = 0;
    else node.removeAttribute("tabindex");
  }
}
