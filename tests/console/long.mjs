// A list of a hundred thousand: node long.mjs http://127.0.0.1:8080

import assert from 'node:assert/strict';
import { check, close, eventually, open, submit } from './browser.mjs';

const COUNT = 100_000;
const page = await open('');
const view = page.locator('.view');
const foot = () => page.locator('.foot').textContent();
const rows = () => page.locator('.row:not([hidden])').count();

await check('all of it can be reached by scrolling', async () => {
  await page.locator('.row:not([hidden])').first().waitFor();
  await page.evaluate(async () => {
    const view = document.querySelector('.view');
    while (document.querySelector('.foot').textContent.endsWith('more below')) {
      view.scrollTop = view.scrollHeight;
      await new Promise(requestAnimationFrame);
    }
  });
  assert.equal(await foot(), '100,000 transactions');
  await view.focus();
  await page.keyboard.press('End');
  await page.locator('.row:not([hidden]) .labels', { hasText: /^order=0$/ }).waitFor();
});

await check('only what is in sight is in the page', async () => {
  assert.ok((await rows()) < 60, `${await rows()} rows`);
  assert.ok((await page.evaluate(() => document.querySelectorAll('*').length)) < 1500);
});

await check('scrolling through it stays smooth', async () => {
  // The time that the page's own thread works, whatever else the machine does meanwhile.
  const browser = await page.context().newCDPSession(page);
  await browser.send('Performance.enable');
  const worked = async () => {
    const { metrics } = await browser.send('Performance.getMetrics');
    return metrics.find(({ name }) => name === 'ThreadTime').value * 1000;
  };
  const before = await worked();
  const jumps = 100;
  await page.evaluate(async (jumps) => {
    const view = document.querySelector('.view');
    for (let jump = 0; jump < jumps; jump += 1) {
      view.scrollTop = (view.scrollHeight * jump) / jumps;
      await new Promise(requestAnimationFrame);
    }
  }, jumps);
  const each = ((await worked()) - before) / jumps;
  console.log(`a jump to another part of the list took ${each.toFixed(1)} ms`);
  // Every jump changes all rows in sight; below this, thirty a second would be possible without optimisation.
  assert.ok(each < 33, `${each} ms`);
});

await check('what arrives meanwhile moves nothing that one looks at', async () => {
  await view.evaluate((element) => { element.scrollTop = 350_000; });
  const middle = () => view.evaluate((element) => {
    const { left, top, height } = element.getBoundingClientRect();
    return document.elementFromPoint(left + 200, top + height / 2).closest('.row')?.id;
  });
  const id = await eventually('drawn', middle);
  const place = () => page.locator(`#${id}`).evaluate((row) => Math.round(row.getBoundingClientRect().top));
  const before = await place();
  for (let number = 0; number < 5; number += 1) {
    await submit({ ledger: 'main', contract: 'counter', function: 'Add', args: ['hits', 1], metadata: { order: 'late' } });
  }
  await page.getByRole('button', { name: '5 new' }).waitFor();
  assert.equal(await place(), before);
  await page.getByRole('button', { name: '5 new' }).click();
  await eventually('the newest', async () => (await page.locator('.row:not([hidden])', { hasText: 'order=late' }).count()) === 5);
  assert.equal(await foot(), `${(COUNT + 5).toLocaleString('en-GB')} transactions`);
});

await close();
