// Accessibility and pictures of a report, for developers. Not part of the tests: it needs Node and a Chromium.
//
//   npm install --no-save playwright-core axe-core
//   node benchmarks/a11y.mjs reports/STUDY/index.html OUTPUT_DIR [/usr/bin/chromium]
//
// Runs axe-core (WCAG 2.1 A and AA, best practices) on the page in light and dark, at desktop and phone width, with all
// details open; checks that nothing is requested from the network and that the page is not wider than the screen;
// writes screenshots, print pictures and a PDF. Exit code 1 if anything is found.
//
// axe-core leaves text inside SVG undecided, so that is checked here: every text of every figure against the pixels that
// really lie behind it (a picture of the figure without its text), at 4.5 : 1 or more (WCAG 1.4.3); no text may lie on
// another, leave its card, or be smaller than 9 px.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

// Resolved from the working directory, so that node_modules need not lie in the repository.
const require = createRequire(join(process.cwd(), "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [page, out, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
if (!page || !out) {
  console.error("usage: node a11y.mjs PAGE.html OUTPUT_DIR [CHROMIUM]");
  process.exit(4);
}
mkdirSync(out, { recursive: true });
const address = pathToFileURL(resolve(page)).href;

// The texts of a figure on the screen: where, in which colour. Runs in the page.
function texts(svg) {
  const edge = svg.closest("figure").getBoundingClientRect();
  const own = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].map((t) => {
    const box = t.getBoundingClientRect();
    const style = getComputedStyle(t);
    return {
      text: t.textContent,
      fill: style.fill.match(/[\d.]+/g).slice(0, 3).map(Number),
      size: (parseFloat(style.fontSize) * own.width) / svg.viewBox.baseVal.width,
      left: box.left - own.left, top: box.top - own.top, right: box.right - own.left, bottom: box.bottom - own.top,
      out: Math.max(edge.left - box.left, box.right - edge.right, edge.top - box.top, box.bottom - edge.bottom),
    };
  });
}

// The smallest contrast of each text with any colour that covers 3 % or more of what lies behind it. Runs in the page.
async function contrasts({ png, shown, pad }) {
  const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return shown.map((t) => {
    const x = Math.max(0, Math.floor(t.left + pad)), y = Math.max(0, Math.floor(t.top + pad));
    const w = Math.min(picture.width - x, Math.ceil(t.right - t.left)), h = Math.min(picture.height - y, Math.ceil(t.bottom - t.top));
    if (w < 1 || h < 1) return 0;
    const { data } = pen.getImageData(x, y, w, h);
    const seen = new Map();
    for (let i = 0; i < data.length; i += 4) {
      const key = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }
    const ink = light(t.fill);
    let least = 21;
    for (const [key, count] of seen) {
      if (count < 0.03 * w * h) continue;
      const back = light([key >> 16, (key >> 8) & 255, key & 255]);
      least = Math.min(least, (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05));
    }
    return least;
  });
}

const GAP = 24; // px of the picture around a figure: some labels stand a little outside their drawing

// What is wrong with the texts of all figures, and the smallest contrast and size.
async function figures(tab) {
  const wrong = [];
  let least = 21, smallest = 99, count = 0;
  await tab.addStyleTag({ content: "nav { position: static !important }" });
  for (const svg of await tab.locator("svg.plot").elementHandles()) {
    const shown = (await svg.evaluate(texts)).filter((t) => t.text.trim());
    const name = await svg.evaluate((s) => s.querySelector("title").textContent);
    await svg.evaluate((s) => s.querySelectorAll("text").forEach((t) => (t.style.visibility = "hidden")));
    await svg.scrollIntoViewIfNeeded();
    const box = await svg.boundingBox();
    const clip = { x: box.x - GAP, y: box.y - GAP, width: box.width + 2 * GAP, height: box.height + 2 * GAP };
    const pad = clip.x < 0 ? GAP + clip.x : GAP; // a phone's edge is nearer
    clip.x = Math.max(0, clip.x);
    const scroll = await tab.evaluate(() => [scrollX, scrollY]);
    clip.x += scroll[0];
    clip.y += scroll[1];
    const png = (await tab.screenshot({ clip, fullPage: true })).toString("base64");
    await svg.evaluate((s) => s.querySelectorAll("text").forEach((t) => (t.style.visibility = "")));
    const moved = shown.map((t) => ({ ...t, left: t.left + pad - GAP, right: t.right + pad - GAP }));
    const found = await tab.evaluate(contrasts, { png, shown: moved, pad: GAP });
    shown.forEach((t, i) => {
      count += 1;
      least = Math.min(least, found[i]);
      smallest = Math.min(smallest, t.size);
      if (found[i] < 4.5) wrong.push(`${name}: "${t.text}" has a contrast of ${found[i].toFixed(2)}`);
      if (t.out > 0.5) wrong.push(`${name}: "${t.text}" leaves its card by ${t.out.toFixed(1)} px`);
      if (t.size < 9) wrong.push(`${name}: "${t.text}" is ${t.size.toFixed(1)} px high`);
      for (const o of shown.slice(0, i)) {
        const wide = Math.min(t.right, o.right) - Math.max(t.left, o.left);
        const high = Math.min(t.bottom, o.bottom) - Math.max(t.top, o.top);
        const lines = 0.25 * Math.min(t.bottom - t.top, o.bottom - o.top); // boxes hold the line's spacing
        if (wide > 1 && high > lines) wrong.push(`${name}: "${t.text}" lies on "${o.text}"`);
      }
    });
  }
  return { wrong, least, smallest, count };
}

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
let found = 0;
for (const [name, width, height] of [["desktop", 1280, 800], ["phone", 390, 844]]) {
  for (const colorScheme of ["light", "dark"]) {
    // The page's own policy forbids scripts; the checker is one, so the policy is lifted here and tested elsewhere.
    const context = await browser.newContext({ viewport: { width, height }, colorScheme, offline: true, bypassCSP: true });
    const tab = await context.newPage();
    const asked = [];
    tab.on("request", (request) => {
      if (!request.url().startsWith("data:") && request.url() !== address) asked.push(request.url());
    });
    await tab.goto(address);
    await tab.screenshot({ path: join(out, `${name}-${colorScheme}-first.png`) });
    await tab.screenshot({ path: join(out, `${name}-${colorScheme}.png`), fullPage: true });
    const wide = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    await tab.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
    await tab.evaluate(axe);
    const result = await tab.evaluate(() =>
      window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
    );
    const count = result.violations.reduce((n, v) => n + v.nodes.length, 0);
    console.log(
      `${name} ${colorScheme}: ${result.passes.length} rules passed, ${result.violations.length} violated ` +
        `(${count} places), ${result.incomplete.length} undecided, ${asked.length} requests, ${Math.max(0, wide)} px too wide`,
    );
    for (const v of result.violations) {
      console.log(`  ${v.id} (${v.impact}): ${v.help}`);
      for (const n of v.nodes.slice(0, 4)) console.log(`    ${n.target.join(" ")}: ${n.any[0]?.message ?? n.html.slice(0, 120)}`);
    }
    for (const v of result.incomplete) {
      console.log(`  undecided ${v.id}: ${v.nodes.length} places, e.g. ${v.nodes[0].target.join(" ")}: ${v.nodes[0].any[0]?.message ?? ""}`);
    }
    await tab.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = false)));
    const drawn = await figures(tab);
    console.log(
      `  text in figures: ${drawn.count}, smallest contrast ${drawn.least.toFixed(2)}, smallest ${drawn.smallest.toFixed(1)} px`,
    );
    for (const line of drawn.wrong) console.log(`  ${line}`);
    found += count + asked.length + drawn.wrong.length + (wide > 0 ? 1 : 0);
    await context.close();
  }
}
const context = await browser.newContext({ offline: true });
const tab = await context.newPage();
await tab.goto(address);
await tab.pdf({ path: join(out, "print.pdf"), preferCSSPageSize: true, printBackground: true });
await browser.close();
process.exit(found ? 1 : 0);
