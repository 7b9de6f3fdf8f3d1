// Light, dark, or as the system has it.
import { signal } from "./ui.js";

const KEY = "flexflow.theme";

/** @returns {Theme} */
function stored() {
  const found = localStorage.getItem(KEY);
  return found === "light" || found === "dark" ? found : "system";
}

export const theme = signal(stored());

/** @param {Theme} next */
export function setTheme(next) {
  localStorage.setItem(KEY, next);
  theme.value = next;
  apply();
}

function apply() {
  if (theme.peek() === "system") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", theme.peek());
}

apply();
