// The pages' frame: who looks, which page, which range; and the keys.

import { render, type JSX } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { get, Refused, type Viewer } from "./api";
import { Context, NOBODY, type Shared } from "./context";
import { Frame } from "./parts/Frame";
import { Waiting } from "./parts/Waiting";
import { ApplicationPage } from "./pages/Application";
import { Calls } from "./pages/Calls";
import { MapPage } from "./pages/Map";
import { Operator } from "./pages/Operator";
import { Overview } from "./pages/Overview";
import { SignIn } from "./pages/SignIn";
import { TracePage } from "./pages/Trace";
import { TracesPage } from "./pages/Traces";
import { useLanguage, useTheme } from "./settings";
import "./style.css";
import { useTicks } from "./ticks";
import { textOf } from "./text";
import { format, parse, type View } from "./view";

const PAGES: Record<View["page"], () => JSX.Element> = {
  applications: Overview,
  application: ApplicationPage,
  map: MapPage,
  calls: Calls,
  traces: TracesPage,
  trace: TracePage,
  operator: Operator,
};

function useView(): [View, Shared["show"]] {
  const [view, setView] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = (): void => {
      setView(parse(location.hash));
    };
    addEventListener("hashchange", changed);
    return () => {
      removeEventListener("hashchange", changed);
    };
  }, []);
  const show: Shared["show"] = (next, replace = false) => {
    if (replace) {
      history.replaceState(null, "", format(next));
      setView(next);
    } else {
      location.hash = format(next);
    }
  };
  return [view, show];
}

/** Who looks; again after each sign-in and sign-out. */
function useViewer(again: number): { viewer: Viewer | null; error: Error | null } {
  const [state, setState] = useState<{ viewer: Viewer | null; error: Error | null }>({ viewer: null, error: null });
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const load = (): void => {
      get<Viewer>("/api/v1/viewer", stop.signal).then(
        (viewer) => {
          setState({ viewer, error: null });
        },
        (error: unknown) => {
          if (stop.signal.aborted) return;
          setState({ viewer: null, error: error instanceof Error ? error : new Error(String(error)) });
          // A proxy answers so while the exporter restarts.
          if (!(error instanceof Refused) || error.status >= 500) timer = setTimeout(load, 3000);
        },
      );
    };
    load();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [again]);
  return state;
}

function App(): JSX.Element {
  const [view, show] = useView();
  const [again, setAgain] = useState(0);
  const reload = (): void => {
    setAgain(again + 1);
  };
  const { viewer, error } = useViewer(again);
  const [language, setLanguage] = useLanguage();
  const [theme, colours, setTheme] = useTheme();
  const [live, setLive] = useState(true);
  const tick = useTicks(live, viewer);
  const text = useMemo(() => textOf(language), [language]);
  useEffect(() => {
    const page = view.page === "operator" && viewer?.operator === false ? "sandboxes" : view.page;
    document.title = `${view.page === "application" ? (view.service ?? "") : text(page)} · Porthole`;
  }, [view, text, viewer]);
  const page = (): JSX.Element => {
    if (viewer === null) {
      if (error instanceof Refused && error.status === 401) {
        return <SignIn done={reload} />;
      }
      return <Waiting error={error} />;
    }
    const Page = PAGES[view.page];
    return <Page key={`${view.page} ${view.tenant ?? ""} ${view.service ?? ""}`} />;
  };
  const shared: Shared = {
    view,
    show,
    text,
    viewer: viewer ?? NOBODY,
    tick,
    theme: colours,
  };
  return (
    <Context.Provider value={shared}>
      <Frame
        signedIn={viewer !== null}
        signedOut={reload}
        settings={{ language, setLanguage, theme, setTheme, live, setLive }}
      >
        {page()}
      </Frame>
    </Context.Provider>
  );
}

render(<App />, document.body);
