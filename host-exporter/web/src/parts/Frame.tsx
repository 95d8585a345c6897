// Around each page: where to go, how far back, and what the person has chosen.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { signOut } from "../api";
import { useShared } from "../context";
import { THEMES, type Theme } from "../settings";
import { LANGUAGES, type Key, type Language } from "../text";
import { FILTER_MAX, to, type View } from "../view";
import { Link } from "./Link";
import { RangeChoice } from "./Range";
import { Stale } from "./Stale";

export interface Settings {
  language: Language;
  setLanguage: (language: Language) => void;
  theme: Theme;
  setTheme: (theme: Theme) => void;
  live: boolean;
  setLive: (live: boolean) => void;
}

interface Props {
  signedIn: boolean;
  signedOut: () => void;
  settings: Settings;
  children: ComponentChildren;
}

const TABS: readonly View["page"][] = ["applications", "map", "calls", "traces", "operator"];
/** Pages that are reached from another one. */
const TAB_OF: Partial<Record<View["page"], View["page"]>> = { application: "applications", trace: "traces" };
const THEME_WORDS: Record<Theme, Key> = { auto: "themeAuto", light: "themeLight", dark: "themeDark" };

export function Frame({ signedIn, signedOut, settings, children }: Props): JSX.Element {
  const { view, show, text, viewer } = useShared();
  const filter = useRef<HTMLInputElement>(null);
  useKeys(filter, settings);
  const tab = TAB_OF[view.page] ?? view.page;
  return (
    <>
      <button
        type="button"
        class="skip"
        onClick={() => {
          document.getElementById("content")?.focus();
        }}
      >
        {text("skip")}
      </button>
      <header>
        <Link to={to(view, "applications")} class="brand">
          <svg width="22" height="22" viewBox="0 0 22 22" aria-hidden="true">
            <circle cx="11" cy="11" r="9" />
            <circle cx="11" cy="11" r="5" />
          </svg>
          Porthole
        </Link>
        {signedIn && (
          <nav aria-label="Porthole">
            {TABS.map((page) => (
              <Link key={page} to={to(view, page)} current={page === tab}>
                {text(page === "operator" && !viewer.operator ? "sandboxes" : page)}
              </Link>
            ))}
          </nav>
        )}
        <span class="who">{viewer.tenant ?? ""}</span>
        <div class="settings">
          {viewer.session && (
            <button
              type="button"
              onClick={() => {
                void signOut().finally(signedOut);
              }}
            >
              {text("signOut")}
            </button>
          )}
          <select
            aria-label={text("language")}
            value={settings.language}
            onChange={(event) => {
              settings.setLanguage(event.currentTarget.value as Language);
            }}
          >
            {Object.entries(LANGUAGES).map(([language, name]) => (
              <option key={language} value={language} lang={language}>
                {name}
              </option>
            ))}
          </select>
          <select
            aria-label={text("theme")}
            value={settings.theme}
            onChange={(event) => {
              settings.setTheme(event.currentTarget.value as Theme);
            }}
          >
            {THEMES.map((theme) => (
              <option key={theme} value={theme}>
                {text(THEME_WORDS[theme])}
              </option>
            ))}
          </select>
        </div>
      </header>
      {signedIn && (
        <div class="tools" role="search">
          <input
            ref={filter}
            type="search"
            class="filter"
            aria-label={text("filter")}
            placeholder={text("filterHint")}
            value={view.filter}
            onInput={(event) => {
              show({ ...view, filter: event.currentTarget.value.slice(0, FILTER_MAX) }, true);
            }}
          />
          <RangeChoice />
          <button
            type="button"
            class="live"
            aria-pressed={settings.live}
            onClick={() => {
              settings.setLive(!settings.live);
            }}
          >
            <i class={settings.live ? "dot c2" : "dot faint"} aria-hidden="true" />
            {text(settings.live ? "live" : "paused")}
          </button>
        </div>
      )}
      <main id="content" tabIndex={-1}>
        {signedIn && <Stale />}
        {children}
      </main>
      <footer>
        porthole-exporter {viewer.version} · {text("keys")}
      </footer>
    </>
  );
}

/** Keys that act while no field has the focus. */
function useKeys(filter: { current: HTMLInputElement | null }, settings: Settings): void {
  const { view, show } = useShared();
  useEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      const target = event.target as HTMLElement;
      const typing = target.matches("input, select, textarea");
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape" && typing) target.blur();
      if (typing) return;
      const page = TABS[Number(event.key) - 1];
      if (page !== undefined) show(to(view, page));
      else if (event.key === "l") settings.setLive(!settings.live);
      else if (event.key === "/") filter.current?.focus();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => {
      removeEventListener("keydown", pressed);
    };
  });
}
