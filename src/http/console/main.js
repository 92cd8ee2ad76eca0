// Where the address leads, the keys, and the search box.

import { h, dialog, notice } from './dom.js';
import { LanesPage } from './lanes.js';
import { ListPage } from './list.js';
import { RecordPage } from './record.js';
import { find } from './search.js';
import { begin } from './session.js';

const SHORTCUTS = [['/', 'Find a transaction'], ['j  k', 'Next, previous row'], ['Enter', 'Open the row'], ['Esc', 'Back'],
  ['t', 'Transactions'], ['l', 'Lanes'], ['Home', 'Newest'], ['?', 'This help']];

const main = document.getElementById('main');
const search = document.getElementById('search');
const pages = {};
let current = null;

const links = {};

/** Takes what a page says of its connection to the gateway. */
function linked(name) {
  return (state, text) => {
    links[name] = [state, text];
    if (current === pages[name]) showLink(name);
  };
}

function showLink(name) {
  const [state, text] = links[name] ?? ['', ''];
  const element = document.getElementById('link');
  element.dataset.state = state;
  element.textContent = text;
}

const makers = { list: () => new ListPage(linked('list')), record: () => new RecordPage(linked('record')), lanes: () => new LanesPage(linked('lanes')) };

/** Shows the page that the address names. Pages are kept, so the list is where it was left. */
function route() {
  const [path, params = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [head, id] = path.split('/');
  const name = head === 'tx' && id ? 'record' : head === 'lanes' ? 'lanes' : 'list';
  pages[name] ??= makers[name]();
  const page = pages[name];
  if (!page.element.isConnected) main.append(page.element);
  if (current && current !== page) current.leave?.();
  for (const other of Object.values(pages)) other.element.hidden = other !== page;
  for (const anchor of document.querySelectorAll('nav a')) {
    if (anchor.dataset.page === name) anchor.setAttribute('aria-current', 'page');
    else anchor.removeAttribute('aria-current');
  }
  current = page;
  showLink(name);
  page.open(name === 'record' ? decodeURIComponent(id) : new URLSearchParams(params));
  document.title = `${page.title} · Sluicegate`;
}

function showHelp() {
  if (document.querySelector('dialog')) return;
  dialog('Keyboard', h('dl', {}, SHORTCUTS.map(([keys, does]) =>
    [h('dt', {}, keys.split('  ').map((key) => [h('kbd', {}, key), ' '])), h('dd', {}, does)])), { no: 'Close' });
}

let searching = new AbortController();

document.querySelector('.search').addEventListener('submit', async (event) => {
  event.preventDefault();
  searching.abort();
  const text = search.value.trim();
  if (!text) return;
  searching = new AbortController();
  const { signal } = searching;
  search.setAttribute('aria-busy', 'true');
  try {
    const found = await find(text, signal);
    if (found) {
      search.value = '';
      search.blur();
      location.hash = found;
    } else {
      notice(`Nothing has the id, ledger id or idempotency key “${text}”. To look in metadata, write label=value.`);
    }
  } catch (error) {
    if (!signal.aborted) notice(error);
  } finally {
    if (signal === searching.signal) search.removeAttribute('aria-busy');
  }
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog')) return;
  const typing = event.target.matches('input:not([type="radio"], [type="range"]), select, textarea');
  if (event.key === 'Escape') {
    searching.abort();
    if (typing) event.target.blur();
    else if (current !== pages.list) history.length > 1 && pages.list ? history.back() : location.assign('#/');
  } else if (typing || event.target.matches('[type="radio"], [type="range"]')) {
    return;
  } else if (event.key === '/') {
    search.focus();
    search.select();
  } else if (event.key === '?') {
    showHelp();
  } else if (event.key === 't') {
    location.hash = '#/';
  } else if (event.key === 'l') {
    location.hash = '#/lanes';
  } else if (!current?.key?.(event)) {
    return;
  } else {
    event.preventDefault();
    return;
  }
  event.preventDefault();
});

document.getElementById('help').addEventListener('click', showHelp);
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener('hashchange', route);
addEventListener('unhandledrejection', (event) => notice(event.reason));
await begin();
route();
