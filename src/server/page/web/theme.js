// Light or dark: as the system has it, or as the user chose.

import { byId, icon } from "./dom.js";
import { say } from "./say.js";
import { kept } from "./store.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

function apply(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  button.replaceChildren(icon(theme));
  button.setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
  button.title = `Colours: ${NAMES[theme]}`;
}

export function startTheme() {
  let theme = kept.theme.get();
  if (!(theme in NEXT)) theme = "auto";
  apply(theme);
  byId("theme").addEventListener("click", () => {
    theme = NEXT[theme];
    kept.theme.set(theme === "auto" ? null : theme);
    apply(theme);
    say(`Colours: ${NAMES[theme]}`);
  });
}
