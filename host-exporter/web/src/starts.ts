// How a sandbox starts: the moments that it reaches, and the time between them.

import type { StartTimes, Starts } from "./api";
import type { Key } from "./text";

/** Moments, in the order in which a sandbox with a built-in agent reaches them; with a sidecar the agent comes later. */
export const PHASES = ["machine", "agent", "first_process", "first_listen", "first_request"] as const;
export type Phase = (typeof PHASES)[number];

/** What each is called, and its colour in bars. */
export const SHOWN: Record<Phase, { name: Key; colour: string }> = {
  machine: { name: "machineBegan", colour: "c1" },
  agent: { name: "agentReached", colour: "c6" },
  first_process: { name: "firstProcess", colour: "c3" },
  first_listen: { name: "firstListen", colour: "c4" },
  first_request: { name: "firstRequest", colour: "c2" },
};

/** A part of a start: the time until a moment from the one before it, seconds since the sandbox's creation. */
export interface Part {
  phase: Phase;
  from: number;
  to: number;
}

export function time(start: StartTimes, phase: Phase): number | null {
  return start[`${phase}_seconds`];
}

/** The parts of a start, one behind the other; moments that are not known are in none. */
export function parts(times: (phase: Phase) => number | null): Part[] {
  const reached = PHASES.flatMap((phase) => {
    const to = times(phase);
    return to === null ? [] : [{ phase, to }];
  });
  reached.sort((a, b) => a.to - b.to);
  return reached.map(({ phase, to }, at) => ({ phase, from: reached[at - 1]?.to ?? 0, to }));
}

/** How long a start took as far as it is known: until its last moment. */
export function whole(times: (phase: Phase) => number | null): number | null {
  return parts(times).pop()?.to ?? null;
}

export type Times = Starts["applications"][number]["phases"][number];

/** An application's times of a phase. */
export function ofPhase(phases: readonly Times[], phase: Phase): Times | null {
  return phases.find((times) => times.phase === phase) ?? null;
}
