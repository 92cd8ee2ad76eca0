// A transaction that waits for a person's word: node settle.mjs http://127.0.0.1:8080 ID

import assert from 'node:assert/strict';
import { check, close, open } from './browser.mjs';

const page = await open(`#/tx/${process.argv[3]}`);
const dialog = page.getByRole('dialog', { name: 'Settle by hand' });

await check('what the ledger cannot tell is settled by somebody who says how they know', async () => {
  await page.getByText('somebody has to settle it').waitFor();
  await page.getByRole('button', { name: 'Settle…' }).click();
  await dialog.getByLabel('Done: it took effect').check();
  await dialog.getByRole('button', { name: 'Settle' }).click();
  assert.equal(await dialog.getByLabel('Note').evaluate((field) => field.validity.valueMissing), true);
  await dialog.getByLabel('Note').fill('seen in the explorer');
  await dialog.getByLabel('Block').fill('12');
  await page.keyboard.press('Enter');
  await page.locator('.steps > .done').getByText('in block 12').waitFor();
  await page.locator('.steps').getByText('seen in the explorer').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Settle…' }).count(), 0);
});

await close();
