// Who uses the console. The key is kept for this tab only, and sent with each request; the gateway decides what it
// may do, and the console shows only what it would be allowed.

import { Problem, call, hasKey, onUnauthorized, setKey } from './api.js';
import { dialog, h } from './dom.js';

/** Tells everybody who shows something of it that the session is another one. */
export const session = new EventTarget();

let me = { subject: null, tenant: null, scopes: [] };

export function may(scope) {
  return me.scopes.includes(scope);
}

/** Whether this is an operator of the gateway, not of one tenant. */
export function operates() {
  return may('operate') && !me.tenant;
}

/** Asks the gateway who we are, and shows it. */
export async function whoAmI() {
  try {
    me = await call('GET', '/v1/whoami');
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    me = { subject: null, tenant: null, scopes: [] };
  }
  const subject = document.getElementById('subject');
  subject.hidden = !me.subject || me.subject === 'anonymous';
  subject.textContent = me.tenant ? `${me.subject} · ${me.tenant}` : me.subject ?? '';
  subject.title = `Scopes: ${me.scopes.join(', ')}`;
  document.getElementById('sign-out').hidden = !hasKey();
  session.dispatchEvent(new Event('changed'));
}

let asking = null;
let declined = false;

/** Asks for a key, once: whoever else needs one meanwhile waits for the same answer. */
function askForKey(refusal) {
  if (declined) return false;
  asking ??= show(refusal).finally(() => { asking = null; });
  return asking;
}

async function show(refusal) {
  const words = hasKey() ? refusal.detail : 'This gateway asks who you are. The key stays in this tab, until it is closed.';
  const field = h('label', { class: 'field' }, 'API key or token',
    h('input', { name: 'key', type: 'password', required: true, autocomplete: 'off', autofocus: true }));
  const key = await dialog('Sign in', [h('p', { class: 'hint' }, words), field], {
    yes: 'Sign in',
    accept: (form) => form.get('key').trim(),
  });
  if (!key) {
    declined = true;
    document.getElementById('sign-in').hidden = false;
    return false;
  }
  setKey(key);
  return true;
}

export function begin() {
  onUnauthorized(askForKey);
  document.getElementById('sign-in').addEventListener('click', () => location.reload());
  document.getElementById('sign-out').addEventListener('click', () => {
    setKey(null);
    location.reload();
  });
  return whoAmI();
}
