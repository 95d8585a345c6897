// What a person has chosen for all pages, kept by the browser.

import { useEffect, useState } from "preact/hooks";
import { LANGUAGES, preferred, type Language } from "./text";

export const THEMES = ["auto", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

/** A browser can forbid to keep anything. */
function kept(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It holds for this page alone then.
  }
}

export function useLanguage(): [Language, (language: Language) => void] {
  const known = Object.keys(LANGUAGES) as Language[];
  const [language, setLanguage] = useState<Language>(
    () => known.find((language) => language === kept("language")) ?? preferred(navigator.languages),
  );
  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  }, [language]);
  return [
    language,
    (language) => {
      keep("language", language);
      setLanguage(language);
    },
  ];
}

/** The choice, the colours that follow from it, and a change of it. */
export function useTheme(): [Theme, "light" | "dark", (theme: Theme) => void] {
  const [theme, setTheme] = useState<Theme>(() => THEMES.find((theme) => theme === kept("theme")) ?? "auto");
  const [dark, setDark] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const changed = (): void => {
      setDark(query.matches);
    };
    query.addEventListener("change", changed);
    return () => {
      query.removeEventListener("change", changed);
    };
  }, []);
  const colours = theme === "auto" ? (dark ? "dark" : "light") : theme;
  document.documentElement.dataset.theme = colours;
  return [
    theme,
    colours,
    (theme) => {
      keep("theme", theme);
      setTheme(theme);
    },
  ];
}
