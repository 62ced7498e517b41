// Accessibility and pictures of a report, for developers. Not part of the tests: it needs Node and a Chromium.
//
//   npm install --no-save playwright-core axe-core
//   node benchmarks/a11y.mjs reports/STUDY/index.html OUTPUT_DIR [/usr/bin/chromium]
//
// Runs axe-core (WCAG 2.1 A and AA, best practices) on the page in light and dark, at desktop and phone width, with all
// details open; checks that nothing is requested from the network and that the page is not wider than the screen;
// writes screenshots and a PDF. Exit code 1 if anything is found.
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
    found += count + asked.length + (wide > 0 ? 1 : 0);
    await context.close();
  }
}
const context = await browser.newContext({ offline: true });
const tab = await context.newPage();
await tab.goto(address);
await tab.pdf({ path: join(out, "print.pdf"), preferCSSPageSize: true, printBackground: true });
await browser.close();
process.exit(found ? 1 : 0);
