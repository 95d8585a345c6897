// Opens every page of a running exporter in Chromium, in both themes and on a desk and a phone: each has to show what the
// exporter has, without an error in the browser's console (which a breach of the Content-Security-Policy would be), and
// without anything serious for axe. Then the ways through the pages: keys, links, order, events, sign-in.
// Usage: TOKEN=… node drive.mjs OPEN CLOSED FOLDER: addresses of an exporter that needs no token and of one that needs
// this one, and the folder for the screenshots.
import assert from "node:assert/strict";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { check, has, launch, SIZES, watched as watchedAt } from "./pages.mjs";

const [address, closed, folder] = process.argv.slice(2);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

/** Pages, and what each has to show. */
const PAGES = [
  ["applications", "#/applications", ["shop", "burns fast", "/s"]],
  ["application", "#/application/acme/shop", ["/orders/{}", "503", "Availability", "ms", "Durations over time"]],
  ["called", "#/application/acme/shop?part=called", ["10.0.0.9:80", "10.0.0.77:9000", "refused 16", "150 µs"]],
  ["instances", "#/application/acme/shop?part=instances", ["shop-0", "shop-1"]],
  ["resources", "#/application/acme/shop?part=resources", ["Throttled", "1100", "Open files"]],
  ["map", "#/map", ["10.0.0.9:80", "shop", "/s ·", "16 failed to connect"]],
  ["calls", "#/calls", ["/orders/{}", "error"]],
  ["traces", "#/traces", ["/orders/{}", "cart, shop"]],
  ["trace", `#/trace?id=${await traceOfSeveral()}`, ["first", "thread", "connection", "/items/{}", "served by cart", "120 ms"]],
  ["operator", "#/operator", ["create_refused", "syscall_raw_tracepoint", "acme", "globex"]],
];

const browser = await launch();
let opened = 0;
try {
  for (const colorScheme of ["light", "dark"]) {
    for (const [size, viewport] of Object.entries(SIZES)) {
      const context = await browser.newContext({ viewport, colorScheme, locale: "en-US" });
      for (const [name, view, texts] of PAGES) await open(context, `${name}-${size}-${colorScheme}`, view, texts);
      await context.close();
    }
  }
  await use(await browser.newContext({ viewport: SIZES.desk, locale: "en-US" }));
  await signIn(await browser.newContext({ viewport: SIZES.phone, locale: "en-US" }));
  const chinese = await browser.newContext({ viewport: SIZES.desk, locale: "zh-CN" });
  await open(chinese, "applications-chinese", "#/applications", ["应用", "shop"]);
  await chinese.close();
} finally {
  await browser.close();
}
console.log(`${opened} views`);

/** The id of a trace with a call between two sandboxes. */
async function traceOfSeveral() {
  const answer = await fetch(`${address}/api/v1/traces?spans_min=3`);
  return (await answer.json()).traces[0].trace_id;
}

function watched(context, expected) {
  return watchedAt(context, [address, closed], expected);
}

/** Opens a view, checks it, and keeps a picture of it. */
async function open(context, name, view, texts) {
  const { page, faults } = await watched(context);
  await page.goto(`${address}/${view}`);
  await has(page, texts);
  await check(page, faults, name);
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  opened += 1;
  await page.close();
}

/** Goes through the pages as a person does. */
async function use(context) {
  const { page, faults } = await watched(context);
  await page.goto(`${address}/#/applications`);
  // An event of the exporter has the page look again, without a person.
  await page.getByRole("link", { name: "shop", exact: true }).waitFor();
  await page.waitForRequest((request) => request.url().includes("/api/v1/history"), { timeout: 30000 });
  // 500 applications and more: part of them is shown, the filter and the order are of all.
  assert.ok((await page.locator("tbody tr").count()) <= 100, "not all rows at once");
  await page.getByRole("button", { name: /Show more/ }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("many-0499");
  await page.getByRole("link", { name: "many-0499" }).waitFor();
  assert.equal(await page.locator("tbody tr").count(), 1);
  assert.match(page.url(), /filter=many-0499/);
  await page.reload();
  await page.getByRole("link", { name: "many-0499" }).waitFor();
  assert.equal(await page.locator("tbody tr").count(), 1, "a link holds the filter");
  await page.getByRole("searchbox").fill("nothing has this name");
  await page.getByText("Nothing matches the filter").waitFor();
  await page.getByRole("searchbox").fill("");
  await page.getByRole("button", { name: "Rate" }).click();
  assert.match(page.url(), /sort=-rate/);
  const rates = page.locator("tbody tr td:nth-child(4)");
  const [first, second] = (await rates.allInnerTexts()).map((text) => parseFloat(text));
  assert.ok(first >= second, `${first} comes before ${second}`);
  await page.getByRole("link", { name: "shop", exact: true }).click();
  await page.getByRole("heading", { name: "shop" }).waitFor();
  await page.getByRole("link", { name: "1 h" }).click();
  await page.getByText("/orders/{}").first().waitFor();
  assert.match(page.url(), /application\/acme\/shop\?range=3600/);
  await page.goBack();
  await page.keyboard.press("Escape");
  await page.locator("main").focus();
  // From a call that failed to its trace.
  await page.keyboard.press("3");
  await page.getByRole("link", { name: "GET /orders/{}" }).first().click();
  await page.getByText("Joined by").first().waitFor();
  await page.getByRole("link", { name: "Traces" }).click();
  await page.getByLabel("Route, table or topic").fill("/items/{}");
  await page.getByLabel("Route, table or topic").press("Enter");
  await page.waitForURL(/route=/);
  await page.getByText("cart, shop").first().waitFor();
  await page.locator("main").focus();
  await page.keyboard.press("5");
  await page.getByRole("heading", { name: "Sandboxes" }).waitFor();
  await page.keyboard.press("l");
  await page.getByRole("button", { name: "Paused" }).waitFor();
  assert.deepEqual(faults, []);
  await context.close();
}

/** Signs in and out where a token is needed. */
async function signIn(context) {
  // The browser writes each answer of 401 into its console.
  const { page, faults } = await watched(context, "401");
  await page.goto(`${closed}/#/operator`);
  await page.getByLabel("Token").fill("porthole_0");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("This token is not valid").waitFor();
  await page.screenshot({ path: join(folder, "sign-in-phone.png") });
  await page.getByLabel("Token").fill(process.env.TOKEN);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("button", { name: "Sign out" }).waitFor();
  await page.getByText("No sandbox is known").waitFor();
  const [cookie] = await context.cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite], [true, "Strict"]);
  assert.equal(await page.evaluate(() => document.cookie), "", "scripts cannot read it");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(await context.cookies(), []);
  assert.deepEqual(faults, []);
  await context.close();
}
