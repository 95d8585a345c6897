// Where the calls of a trace are on its line of time.

import type { Trace } from "./api";

export interface Placed {
  /** Of the whole trace, 0 to 1. */
  from: number;
  width: number;
}

/** The times of a trace's calls as parts of it, in their order; what a clock puts before the first call begins the whole. */
export function placed(tree: Trace["tree"]): Placed[] {
  const begin = Math.min(...tree.map((call) => call.start_unix_ns));
  const end = Math.max(...tree.map((call) => call.start_unix_ns + call.duration_ns));
  const whole = Math.max(1, end - begin);
  return tree.map((call) => ({ from: (call.start_unix_ns - begin) / whole, width: call.duration_ns / whole }));
}
