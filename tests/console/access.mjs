// A gateway that asks who one is: node access.mjs http://127.0.0.1:8080

import assert from 'node:assert/strict';
import { api, check, close, eventually, open } from './browser.mjs';

const { body: { id } } = await api('POST', '/v1/transactions', { ledger: 'main', contract: 'basic', function: 'DeleteAsset', args: ['none'] }, { prefer: 'wait=20' });
const key = async (scopes, headers = {}) => (await api('POST', '/v1/keys', { name: scopes.join('-'), scopes }, headers)).body.key;
const operator = await key(['submit', 'read', 'operate']);
const reader = await key(['read'], { authorization: `Bearer ${operator}` });
const refused = /401 \(Unauthorized\)/;
const page = await open('');
const dialog = page.getByRole('dialog', { name: 'Sign in' });

await check('whoever has no key is asked for one, and told if it is wrong', async () => {
  await dialog.waitFor();
  assert.equal(await page.locator('.row').count(), 0);
  await page.keyboard.type(`sg_aaaaaaaa_${'A'.repeat(43)}`);
  await page.keyboard.press('Enter');
  await dialog.getByText(/key/).first().waitFor();
  await eventually('asked again', async () => (await dialog.getByLabel('API key or token').inputValue()) === '');
}, refused);

await check('who may only read sees everything and is offered nothing else', async () => {
  await page.keyboard.type(reader);
  await page.keyboard.press('Enter');
  await page.locator(`#r-${id}`).click();
  await page.locator('.steps').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Retry…' }).count(), 0);
  await page.goto(`${page.url().split('#')[0]}#/lanes`);
  await page.getByRole('region', { name: 'Lane main' }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Pause' }).count(), 0);
}, refused);

await check('the key lasts as long as the tab, and goes when one signs out', async () => {
  await page.reload();
  await page.getByRole('region', { name: 'Lane main' }).waitFor();
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  await page.getByRole('button', { name: 'Sign out' }).click();
  await dialog.waitFor();
}, refused);

await check('who leaves the question is not asked again and again', async () => {
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'Sign in' }).waitFor();
  await page.getByText('Credentials are needed').first().waitFor();
  await page.getByRole('button', { name: 'Sign in' }).click();
  await dialog.waitFor();
}, refused);

await check('an operator is offered what operators do', async () => {
  await page.keyboard.type(operator);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  await page.goto(`${page.url().split('#')[0]}#/tx/${id}`);
  await page.getByRole('button', { name: 'Retry…' }).waitFor();
}, refused);

await close();
