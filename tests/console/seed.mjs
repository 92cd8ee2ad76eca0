// Something to look at: a morning's business of a small shop.

import { submit } from './browser.mjs';

const ACCOUNTS = ['alice', 'bob', 'carol', 'dave', 'erin', 'frank'];
const SOURCES = ['erp', 'shop', 'pos'];

/** Always the same requests: the names of a picture do not change from one to the next. */
export async function seed(count) {
  for (const [number, account] of ACCOUNTS.entries()) {
    await submit({ ledger: 'main', contract: 'token', function: 'Mint', args: [account, 100_000], metadata: { order: `${4000 + number}` } }, { wait: true });
  }
  const under = [];
  for (let number = 0; number < count; number += 1) {
    const metadata = { order: `${4100 + number}`, source: SOURCES[(number * 7) % 3] };
    const body = { ledger: 'main', metadata, ...call(number) };
    under.push(submit(body, { key: `order-${4100 + number}` }));
  }
  return Promise.all(under);
}

function call(number) {
  const [from, to] = [ACCOUNTS[number % 6], ACCOUNTS[(number * 5 + 1) % 6]];
  switch (number % 8) {
    case 2: return { contract: 'counter', function: 'Add', args: ['visits', 1] };
    case 4: return { contract: 'basic', function: 'CreateAsset', args: [`asset${number}`, 'blue', 5, 'Tomoko', 300] };
    case 5: return { contract: 'counter', function: 'Add', args: ['visits', 1] };
    case 7: return number % 16 === 7
      ? { contract: 'basic', function: 'TransferAsset', args: ['asset-unknown', 'Brad'] }
      : { contract: 'token', function: 'Transfer', args: [from, to, 900_000] };
    default: return { contract: 'token', function: 'Transfer', args: [from, to, 10 + ((number * 37) % 400)] };
  }
}
