// The pictures of the documentation, taken of the gateway that was just looked at.

import { mkdir } from 'node:fs/promises';
import { base, eventually, open, submit, tomorrow } from './browser.mjs';
import { seed } from './seed.mjs';

/** Takes them, in both colours. `record` is worth a look. */
export async function take(folder, record) {
  await mkdir(folder, { recursive: true });
  await seed(160);
  // Some that wait, for the list and the sparklines to show them.
  for (let number = 0; number < 4; number += 1) {
    await submit({ ledger: 'main', contract: 'token', function: 'Transfer', args: ['alice', 'bob', 10 + number], metadata: { order: `${5000 + number}`, source: 'shop' }, not_before: tomorrow() });
  }
  for (const scheme of ['light', 'dark']) {
    const page = await open('', { width: 1120, height: 560, scheme });
    for (const [name, address, ready] of [['list', '#/', '.row:not([hidden])'], ['transaction', `#/tx/${record}`, '.steps'], ['lanes', '#/lanes', '.spark']]) {
      await page.goto(`${base}/${address}`);
      await page.locator(ready).first().waitFor();
      await page.evaluate(() => document.activeElement.blur());
      await eventually('nothing moves', () => page.evaluate(() => document.getAnimations().length === 0));
      await page.screenshot({ path: `${folder}/console-${name}-${scheme}.png` });
    }
    await page.context().close();
  }
}
