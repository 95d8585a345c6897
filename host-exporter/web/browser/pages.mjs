// What every program that opens the pages in Chromium has in common.
import axe from "axe-core";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

export const SIZES = { desk: { width: 1280, height: 860 }, phone: { width: 390, height: 844 } };

/** Chromium; `CHROMIUM` names another than Debian's. */
export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
}

/** Longest wait for what a page does after a moment: far longer than it takes on a busy machine. */
export const SOON_MS = 120_000;

/** A page, and what goes wrong on it. It may request from these addresses alone; `expected` is an error of the console that is none. */
export async function watched(context, addresses, expected) {
  context.setDefaultTimeout(SOON_MS);
  const page = await context.newPage();
  const faults = [];
  page.on("console", (message) => message.type() === "error" && !message.text().includes(expected ?? "\0") && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("dialog", (dialog) => {
    faults.push("a dialog");
    void dialog.dismiss();
  });
  page.on("request", (request) => [...addresses, "data:"].some((own) => request.url().startsWith(own)) || faults.push(`requests ${request.url()}`));
  return { page, faults };
}

/** Waits until the page has these texts. */
export async function has(page, texts) {
  for (const text of texts) {
    await page.getByText(text, { exact: false }).first().waitFor({ state: "attached" });
  }
}

/** Tries until something holds. */
export async function until(holds, what) {
  const end = Date.now() + SOON_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < end, what);
    await new Promise((later) => setTimeout(later, 100));
  }
}

/** Checks that texts lie over none of each other, and over no box. */
export async function apart(page, texts, boxes) {
  const over = await page.evaluate(
    ([texts, boxes]) => {
      const of = (selector) => [...document.querySelectorAll(selector)].map((element) => ({ text: element.textContent, ...element.getBoundingClientRect().toJSON() }));
      const written = of(texts);
      const all = [...written, ...of(boxes)];
      const meet = (a, b) => a.left + 1 < b.right && b.left + 1 < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom;
      return written.flatMap((text, at) => all.slice(at + 1).filter((other) => meet(text, other)).map((other) => `${text.text} ${other.text}`));
    },
    [texts, boxes],
  );
  assert.deepEqual(over, []);
}

/** Checks that a page fits its screen, that axe finds nothing serious, and that nothing went wrong. */
export async function check(page, faults, name) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 0, `${name} is ${wide} pixels wider than the screen`);
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(grave.map(({ id, nodes }) => [id, nodes.slice(0, 3).map((node) => node.html)]), [], `axe on ${name}`);
  assert.equal(await page.evaluate(() => globalThis.breached), undefined, `${name}: a name became a program`);
  assert.deepEqual(faults, [], `errors on ${name}`);
}
