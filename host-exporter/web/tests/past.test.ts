import assert from "node:assert/strict";
import { test } from "node:test";
import { report, unanswered } from "../src/answers";
import { NOBODY } from "../src/context";
import { clock, onAxis, span } from "../src/format";
import { ask, between, fieldOf, isPast, later, LONG_RANGES, offeredRange, ownHour, RANGE_MAX, RANGES, SPARK_POINTS_MAX, stepOf, timeOf, untilNow } from "../src/past";
import { format, parse, START } from "../src/view";

const ALONE = NOBODY;
const WITH_SERVER = { ...NOBODY, range_seconds_max: RANGE_MAX };

test("points of a range are of a length that people count in, and at most a hundred", () => {
  assert.deepEqual([...RANGES, ...LONG_RANGES].map((range) => stepOf(range, 15)), [15, 15, 30, 60, 120, 300, 900, 7200]);
  for (let range = 60; range <= RANGE_MAX; range = Math.ceil(range * 1.07)) {
    const step = stepOf(range, 15);
    assert.ok(step % 15 === 0 && range / step <= 100, `${range} in ${step}`);
  }
});

test("a time that the exporter has not is requested of a server alone", () => {
  const past = { ...START, range: 10_000, until: 1_700_000_010 };
  assert.deepEqual(ask(past, WITH_SERVER), {
    query: { range_seconds: 10_080, step_seconds: 120, until_unix_ms: 1_700_000_010_000, own: null },
    ticks: Infinity,
  });
  const alone = { range_seconds: 3600, step_seconds: 60, until_unix_ms: null, own: null };
  assert.deepEqual(ask(past, ALONE), { query: alone, ticks: 1 });
  assert.deepEqual(ask({ ...past, own: true }, WITH_SERVER).query, { ...alone, own: true });
  assert.equal(isPast(past), true);
  assert.equal(isPast({ ...past, own: true }), false);
});

test("a range of any length is requested in whole points, and never longer than the server has", () => {
  for (const most of [undefined, SPARK_POINTS_MAX]) {
    for (let range = 60; range <= RANGE_MAX; range = range < RANGE_MAX ? Math.min(RANGE_MAX, Math.ceil(range * 1.02)) : RANGE_MAX + 1) {
      const { range_seconds, step_seconds } = ask({ ...START, range, until: 1_700_000_010 }, WITH_SERVER, most).query;
      assert.ok(range_seconds % step_seconds === 0 && range_seconds >= step_seconds, `${range}: ${range_seconds} in ${step_seconds}`);
      assert.ok(range_seconds <= RANGE_MAX && range_seconds > range - step_seconds, `${range}: ${range_seconds}`);
    }
  }
});

test("without a server a link of the past is the last hour in all parts of a page", () => {
  const hour = { range: 3600, until: null, own: true };
  for (const link of ["range=86400", "range=1800&until=1700000010", "range=14400&until=1700000010", "range=86400&own=true"]) {
    const view = parse(`#/applications?${link}`);
    assert.deepEqual(timeOf(view, ALONE), hour, link);
    assert.equal(isPast(timeOf(view, ALONE)), false, link);
    assert.equal(ask(view, ALONE).query.range_seconds, 3600, link);
  }
  assert.deepEqual(timeOf(parse("#/applications?range=86400&own=true"), WITH_SERVER), hour);
  assert.deepEqual(timeOf({ ...START, range: 300 }, ALONE), { ...hour, range: 300 });
});

test("links from one time to another keep the range, or have the next longer one that is offered", () => {
  const now = 1_700_000_040;
  const past = { ...START, range: 14_400, until: now - 14_500 };
  assert.deepEqual(later(past, now), { ...past, until: now - 100 });
  assert.deepEqual(later({ ...past, until: now - 14_400 }, now), { ...past, range: 21_600, until: null }, "up to now");
  assert.deepEqual(untilNow({ ...past, range: 1200 }), { ...past, range: 1800, until: null });
  assert.deepEqual(ownHour({ ...past, range: 1200 }), { ...past, range: 1800, until: null, own: true });
  assert.deepEqual(ownHour(past), { ...past, range: 3600, until: null, own: true });
  assert.equal(offeredRange(RANGE_MAX), 604_800);
  for (const range of [60, 1200, 3600, 14_400, RANGE_MAX]) {
    const view = { ...past, range };
    for (const link of [later(view, now), later(later(view, now), now), untilNow(view), ownHour(view)]) assert.deepEqual(parse(format(link)), link);
  }
});

test("a long range is requested less often", () => {
  const ticks = (range: number): number => ask({ ...START, range }, WITH_SERVER).ticks;
  assert.deepEqual([300, 3600, 10_800, 86_400, 604_800].map(ticks), [1, 1, 2, 4, 4]);
});

test("a link holds a time in the past, and one that there cannot be is none", () => {
  assert.deepEqual(parse("#/applications?range=5000&until=1700000010"), { ...START, range: 5000, until: 1_700_000_010 });
  assert.deepEqual(parse("#/applications?range=5000"), START);
  for (const until of ["x", "-5", "1e99", "1.5", ""]) assert.equal(parse(`#/applications?until=${until}`).until, null, until);
  assert.equal(parse("#/applications?range=99999999999&until=1700000010").range, START.range);
});

test("a form's two times are a range in whole steps", () => {
  const now = 1_700_000_040;
  const at = (ago: number): string => fieldOf(now - ago);
  const chosen = between(at(7200), at(3600), 15, now);
  assert.ok(typeof chosen !== "string");
  assert.equal(chosen.range, 3600);
  assert.ok(Math.abs(chosen.until - (now - 3600)) <= 60, "a field has minutes");
  assert.deepEqual(between(at(120), at(-7200), 15, now), { range: 120, until: now }, "not beyond now");
  assert.equal(between("", at(60), 15, now), "noTime");
  assert.equal(between(at(60), at(120), 15, now), "notBefore");
  assert.equal(between(at(-120), at(-240), 15, now), "inFuture");
  assert.equal(between(at(2 * RANGE_MAX), at(60), 15, now), "tooLong");
});

test("times have the day where it is not today's", () => {
  const noon = new Date(2026, 4, 6, 12, 30, 5).getTime();
  const midnight = new Date(2026, 4, 6).getTime();
  assert.equal(clock(noon, noon), "12:30:05");
  assert.equal(clock(noon, noon + 86_400_000), "05-06 12:30:05");
  const axis = (at: number, now: number, apart = 3600): string[] => [3600, 604_800, 8 * 86_400].map((range) => onAxis(at, range, apart, now));
  assert.deepEqual(axis(noon, noon), ["12:30", "05-06 12:30", "05-06"]);
  assert.deepEqual(axis(midnight, noon), ["00:00", "05-06", "05-06"]);
  assert.equal(onAxis(noon, 300, 30, noon), "12:30:05", "marks less than a minute apart");
  assert.deepEqual([300, 3600, 86_400, 604_800].map((range) => Object.values(span(range)).join(" ")), ["5 minutes", "1 hours", "24 hours", "7 days"]);
});

test("times have the year where it is not this one", () => {
  const noon = new Date(2025, 4, 6, 12, 30, 5).getTime();
  const now = new Date(2026, 4, 6, 12, 30, 5).getTime();
  assert.equal(clock(noon, now), "2025-05-06 12:30:05");
  assert.deepEqual([86_400, 604_800, 8 * 86_400].map((range) => onAxis(noon, range, 3600, now)), ["12:30", "2025-05-06 12:30", "2025-05-06"]);
});

test("what is shown is old from the first request that is not answered until all are", () => {
  report("/a", true, 1);
  assert.equal(unanswered(), null);
  report("/a", false, 2);
  report("/b", false, 3);
  report("/a", false, 4);
  assert.equal(unanswered(), 2);
  report("/a", true, 5);
  assert.equal(unanswered(), 3);
  report("/b", true, 6);
  assert.equal(unanswered(), null);
});
