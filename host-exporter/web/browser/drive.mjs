// Opens every page of a running exporter in Chromium, in both themes and on a desk and a phone: each has to show what the
// exporter has, without an error in the browser's console (which a breach of the Content-Security-Policy would be), and
// without anything serious for axe. Then the ways through the pages: keys, links, order, events, sign-in.
// Usage: TOKEN=… node drive.mjs OPEN CLOSED PAST FOLDER: addresses of an exporter that needs no token, of one that needs this one, and of
// one whose Prometheus server does not answer; and the folder for the screenshots.
import assert from "node:assert/strict";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { answers, dense, history, manyNodes, manyStarts } from "./made.mjs";
import { apart, check, has, launch, SIZES, until, watched as watchedAt } from "./pages.mjs";

const [address, closed, past, folder] = process.argv.slice(2);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

/** A trace with a call between two sandboxes, and the cell of its application's heat map that it is in. */
const traced = await traceOfSeveral();

/** Pages, and what each has to show. */
const PAGES = [
  ["applications", "#/applications", ["shop", "burns fast", "/s"]],
  ["application", "#/application/acme/shop", ["/orders/{}", "503", "Availability", "ms", "Durations over time"]],
  ["called", "#/application/acme/shop?part=called", ["10.0.0.9:80", "10.0.0.77:9000", "refused 16", "150 µs"]],
  ["callers", "#/application/acme/cart?part=callers", ["Called by", "callers outside"]],
  ["instances", "#/application/acme/shop?part=instances", ["shop-0", "shop-1"]],
  ["resources", "#/application/acme/shop?part=resources", ["Throttled", "1100", "Open files"]],
  ["starts", "#/application/acme/shop?part=starts", ["Machine", "First request", "shop-0", "shop-1", "1.5 s"]],
  ["map", "#/map", ["10.0.0.9:80", "shop", "/s ·", "16 failed to connect"]],
  ["calls", "#/calls", ["/orders/{}", "error"]],
  ["traces", "#/traces", ["/orders/{}", "cart, shop"]],
  ["traces-of-cell", `#/traces/acme/${traced.service}?cell=${traced.cell}`, ["without this limit", "/orders/{}"]],
  ["no-traces-of-cell", "#/traces/acme/shop?cell=server-1-2-3-4", ["No trace of these requests is kept", "--span-interval-ms"]],
  ["trace", `#/trace?id=${traced.id}`, ["How the calls are joined", "Certain. Both ends", "first", "thread", "connection", "/items/{}", "served by cart", "120 ms"]],
  ["operator", "#/operator", ["create_refused", "syscall_raw_tracepoint", "acme", "globex", "Slowest starts", "Needs a look", "1 not monitored", "this node", "prometheus_url"]],
];

/** Some of them in Chinese. */
const CHINESE = [
  ["applications", "#/applications", ["应用", "shop"]],
  ["application", "#/application/acme/shop", ["耗时分布", "选择一格"]],
  ["starts", "#/application/acme/shop?part=starts", ["首个请求", "分位数"]],
  ["map", "#/map", ["次连接失败"]],
  ["no-traces-of-cell", "#/traces/acme/shop?cell=server-1-2-3-4", ["没有保留这些请求的链路"]],
  ["trace", `#/trace?id=${traced.id}`, ["各调用如何关联", "确定"]],
  ["operator", "#/operator", ["最慢的启动", "需要关注", "本节点"]],
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
  for (const [size, colorScheme] of [["desk", "light"], ["phone", "dark"]]) {
    const context = await browser.newContext({ viewport: SIZES[size], colorScheme, locale: "zh-CN" });
    for (const [name, view, texts] of CHINESE) await open(context, `${name}-${size}-${colorScheme}-chinese`, view, texts);
    await context.close();
  }
  await many();
  await withoutServer(await browser.newContext({ viewport: SIZES.phone, locale: "en-US" }));
  await withServer();
  await use(await browser.newContext({ viewport: SIZES.desk, locale: "en-US" }));
  await signIn(await browser.newContext({ viewport: SIZES.phone, locale: "en-US" }));
} finally {
  await browser.close();
}
console.log(`${opened} views`);

async function traceOfSeveral() {
  const answer = await fetch(`${address}/api/v1/traces?spans_min=3`);
  const { trace_id: id, service_name: service, received_unix_ms: received, duration_ns: took, side } = (await answer.json()).traces[0];
  // Its spans came at different times, the first one at the latest.
  return { id, service, cell: [side, received - 60_000, received + 1, took, took].join("-") };
}

/** What so many have on a page of their own, which the exporter of this test does not: a dense topology, and starts. */
async function many() {
  for (const [locale, colorScheme] of [["en-US", "light"], ["zh-CN", "dark"]]) {
    const context = await browser.newContext({ viewport: SIZES.desk, colorScheme, locale });
    await answers(context, "topology", dense());
    const { page, faults } = await watched(context);
    await page.goto(`${address}/#/map`);
    await page.locator(".map .label").first().waitFor();
    await apart(page, ".map .label text", ".map .node rect");
    await check(page, faults, `map-dense-${locale}`);
    await page.screenshot({ path: join(folder, `map-dense-${locale}.png`), fullPage: true });
    opened += 1;
    await context.close();
  }
  const context = await browser.newContext({ viewport: SIZES.desk, locale: "en-US" });
  await answers(context, "starts", manyStarts(500));
  const { page, faults } = await watched(context);
  await answers(context, "nodes", manyNodes(200));
  await page.goto(`${address}/#/operator`);
  const starts = page.getByRole("region", { name: "Starts" });
  await starts.getByRole("button", { name: /Show more/ }).waitFor();
  assert.equal(await starts.locator("tbody tr").count(), 100, "not all rows at once");
  await starts.getByRole("link", { name: "started-499", exact: true }).waitFor();
  const nodes = page.getByRole("region", { name: "Nodes" });
  assert.equal(await nodes.locator("tbody tr").count(), 100);
  await nodes.locator("tr", { hasText: "node-7:9464" }).getByText("down").waitFor();
  await check(page, faults, "operator-many");
  await page.screenshot({ path: join(folder, "operator-many.png"), fullPage: true });
  assert.deepEqual(faults, []);
  opened += 1;
  await context.close();
}

function watched(context, expected) {
  return watchedAt(context, [address, closed, past], expected);
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

/** What an exporter without a server says of longer ranges, and one whose server does not answer. */
async function withoutServer(context) {
  const { page, faults } = await watched(context, "502");
  for (const link of ["range=86400", "range=1800&until=1700000010"]) {
    await page.goto(`${address}/#/applications?${link}`);
    await has(page, ["This is the last hour", "shop"]);
    assert.equal(await page.locator(".ranges a[aria-current]").innerText(), "1 h");
  }
  assert.equal(await page.getByText("Objectives are of the last hour").count(), 0);
  await page.getByText("Longer", { exact: true }).click();
  await page.locator(".past .panel").getByText("prometheus_url").waitFor();
  await check(page, faults, "longer");
  await page.screenshot({ path: join(folder, "longer-phone.png") });
  await page.keyboard.press("Escape");
  await page.locator(".past .panel").waitFor({ state: "hidden" });
  await page.goto(`${past}/#/applications?range=86400`);
  await has(page, ["The Prometheus server does not answer as it should", "it cannot be reached"]);
  assert.equal(await page.locator(".stale").count(), 0, "nothing is shown that could be old");
  await check(page, faults, "server-fails");
  await page.screenshot({ path: join(folder, "server-fails-phone.png") });
  await page.getByRole("link", { name: "Show the last hour of this exporter alone" }).click();
  await page.waitForURL(/range=3600&own=true/);
  await has(page, ["other nodes are no part of it"]);
  await page.getByRole("link", { name: "Show all nodes" }).click();
  await has(page, ["The Prometheus server does not answer as it should"]);
  // The topology is of this exporter whatever is chosen.
  await answers(context, "topology", dense());
  await page.goto(`${past}/#/map?own=true`);
  await page.locator(".map .label").first().waitFor();
  assert.equal(await page.getByText("Show all nodes").count(), 0);
  assert.deepEqual(faults, []);
  opened += 2;
  await context.close();
}

/** Ranges that a server has: by links, from one time to another, and back to now. */
async function withServer() {
  for (const [size, colorScheme, locale] of [["desk", "light", "en-US"], ["phone", "dark", "zh-CN"]]) {
    const context = await browser.newContext({ viewport: SIZES[size], colorScheme, locale });
    // Longer ago than a year: its texts have the year.
    const day = new Date(Date.now() - 400 * 86_400_000).toISOString().slice(0, 10);
    const asked = [];
    let slow = false;
    await context.route(
      (url) => url.pathname === "/api/v1/history",
      (route) => {
        asked.push(new URL(route.request().url()).searchParams);
        return slow ? route.fulfill({ status: 504, headers: { "porthole-failed-source": "prometheus" }, body: "" }) : route.fulfill({ json: history(route.request().url()) });
      },
    );
    const { page, faults } = await watched(context, "504");
    const words = locale === "zh-CN" ? ["7 天", "目标为最近一小时", "更早", "至今", "起止时间", "显示"] : ["7 d", "Objectives are of the last hour", "Earlier", "Until now", "From – to", "Show"];
    const [week, note, earlier, untilNow, fromTo, show] = words;
    await page.goto(`${past}/#/applications`);
    await page.getByRole("link", { name: week, exact: true }).click();
    await page.waitForURL(/range=604800/);
    await has(page, [note, "shop", "cart"]);
    await until(() => asked.some((of) => of.get("range_seconds") === "604800"), "a week is requested");
    const one = asked.find((of) => of.get("range_seconds") === "604800");
    assert.equal(Number(one.get("step_seconds")) % 3600, 0, "points of hours");
    await check(page, faults, `week-${size}`);
    await page.screenshot({ path: join(folder, `week-${size}-${colorScheme}.png`) });
    // From one time to another.
    await page.locator(".past summary").click();
    await page.locator("input[name=from]").fill(`${day}T10:00`);
    await page.locator("input[name=to]").fill(`${day}T14:00`);
    await check(page, faults, `from-to-${size}`);
    await page.screenshot({ path: join(folder, `from-to-${size}-${colorScheme}.png`) });
    await page.locator(".past .panel").getByRole("button", { name: show, exact: true }).click();
    await page.waitForURL(/range=14400&until=\d+/);
    const end = (await page.evaluate((time) => Date.parse(time), `${day}T14:00`)).toString();
    await until(() => asked.some((of) => of.get("until_unix_ms") === end && of.get("range_seconds") === "14400"), "the time is requested");
    await page.getByRole("link", { name: "shop", exact: true }).click();
    await page.locator(".chart canvas").first().waitFor();
    await page.locator(".past summary", { hasText: `${day} 10:00:00 – ${day} 14:00:00` }).waitFor();
    await check(page, faults, `past-${size}`);
    await page.screenshot({ path: join(folder, `past-${size}-${colorScheme}.png`), fullPage: true });
    // Back by the range, and to now again. A time in the past that is not answered is requested again.
    slow = true;
    await page.locator(".past summary").click();
    await page.getByRole("link", { name: earlier }).click();
    await page.getByText("prometheus_timeout_seconds").waitFor();
    slow = false;
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    await page.locator(".chart canvas").first().waitFor();
    await page.locator(".past summary", { hasText: `${day} 06:00:00 – ${day} 10:00:00` }).waitFor();
    await page.locator(".past summary").click();
    await page.getByRole("link", { name: untilNow }).click();
    await page.locator(".past summary", { hasText: fromTo }).waitFor();
    assert.doesNotMatch(page.url(), /until=/);
    // A server that is too slow takes nothing away that is shown, and the page says that it is old. A page looks again when it is seen.
    const rate = page.locator(".figure b").first();
    const before = await rate.innerText();
    await page.getByRole("link", { name: locale === "zh-CN" ? "15 分钟" : "15 min", exact: true }).click();
    await until(async () => (await rate.count()) > 0 && (await rate.innerText()) !== before, "the numbers of 15 minutes are shown");
    slow = true;
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    await page.locator(".stale").waitFor();
    await check(page, faults, `stale-${size}`);
    assert.ok(await page.locator(".chart canvas").first().isVisible());
    await page.getByRole("link", { name: week, exact: true }).click();
    await page.getByText("prometheus_timeout_seconds").waitFor();
    assert.deepEqual(faults, []);
    opened += 3;
    await context.close();
  }
}

/** Goes through the pages as a person does. */
async function use(context) {
  const { page, faults } = await watched(context);
  await page.goto(`${address}/#/applications`);
  // An event of the exporter has the page look again, without a person.
  await page.getByRole("link", { name: "shop", exact: true }).waitFor();
  await page.waitForRequest((request) => request.url().includes("/api/v1/history"));
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
  await heat(page);
  await page.goBack();
  await page.keyboard.press("Escape");
  await page.locator("main").focus();
  // From a call that failed to its trace.
  await page.keyboard.press("3");
  await page.getByRole("link", { name: "GET /orders/{}" }).first().click();
  await page.getByText("Joined by").first().waitFor();
  await page.getByRole("link", { name: "List of traces" }).click();
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

/** From a cell of a heat map to its traces, by keys, by a link and by a click, and back. */
async function heat(page) {
  const chooser = page.getByRole("button", { name: /^Choose a cell/ });
  const ofCell = /traces\/acme\/shop\?range=3600&cell=server-/;
  const back = async () => {
    await page.waitForURL(ofCell);
    await page.getByRole("link", { name: "without this limit" }).waitFor();
    await page.goBack();
    await chooser.waitFor();
  };
  await chooser.focus();
  await page.locator(".cells rect").waitFor();
  const described = await page.locator("#cell").innerText();
  await page.keyboard.press("Home");
  await until(async () => (await page.locator("#cell").innerText()) !== described, "another cell is described");
  await page.keyboard.press("Enter");
  await back();
  await chooser.focus();
  await page.locator("#cell").getByRole("link", { name: "Traces" }).click();
  await back();
  // By the pointer from a cell to the link, over what is no cell.
  await chooser.focus();
  await page.locator(".cells rect").hover({ force: true });
  const link = page.locator("#cell").getByRole("link", { name: "Traces" });
  const place = await link.boundingBox();
  await page.mouse.move(place.x + place.width / 2, place.y + place.height / 2, { steps: 50 });
  await link.click();
  await back();
  await chooser.focus();
  await page.locator(".cells rect").waitFor();
  // A map that is drawn anew meanwhile has the cell elsewhere: then the click chooses nothing.
  await until(async () => {
    const box = await page.evaluate(() => document.querySelector(".cells rect")?.getBoundingClientRect().toJSON() ?? null);
    if (box !== null) await page.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
    return ofCell.test(page.url());
  }, "a click opens the traces of a cell");
  await back();
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
