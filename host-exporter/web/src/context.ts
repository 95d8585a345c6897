// What all parts of the pages share.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Viewer } from "./api";
import { type Text, textOf } from "./text";
import { START, type View } from "./view";

export interface Shared {
  view: View;
  /** Shows another view; `replace` where going back should skip this one. */
  show: (view: View, replace?: boolean) => void;
  text: Text;
  viewer: Viewer;
  /** Changes whenever there may be something new. */
  tick: number;
  /** Changes with the colours. */
  theme: string;
}

export const NOBODY: Viewer = { operator: false, tenant: null, session: false, version: "", step_seconds: 15, range_seconds_max: 3600 };

export const Context = createContext<Shared>({
  view: START,
  show: () => undefined,
  text: textOf("en"),
  viewer: NOBODY,
  tick: 0,
  theme: "light",
});

export function useShared(): Shared {
  return useContext(Context);
}
