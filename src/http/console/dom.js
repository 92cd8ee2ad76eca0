// Makes elements. Text only ever becomes text: nothing in the console makes markup of a string, so nothing that a
// record holds can run. (The content security policy would refuse it, too.)

/** An element: `h('a', { href: '#/', class: 'brand', on: { click } }, 'text', child)`. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for drawings. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value === true) {
      element.setAttribute(name, '');
    } else if (value !== undefined && value !== null && value !== false) {
      element.setAttribute(name, value);
    }
  }
  element.append(...flat(children));
  return element;
}

/** Puts these children, and nothing else, into an element. */
export function put(element, ...children) {
  element.replaceChildren(...flat(children));
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false);
}

/** A status, a stage or an outcome as a word with its colour. */
export function badge(word) {
  return h('span', { class: `status ${word}` }, word);
}

/** Opens a dialog and answers what `accept` made of it, or nothing if it was left. */
export function dialog(title, content, { yes, no = 'Cancel', grave = false, accept }) {
  return new Promise((resolve) => {
    let answer;
    const heading = h('h1', { id: 'dialog-title' }, title);
    const trouble = h('div', { role: 'alert' });
    const confirm = yes && h('button', { type: 'submit', class: grave ? 'main grave' : 'main' }, yes);
    const leave = h('button', { type: 'button', on: { click: () => box.close() } }, no);
    const submit = async (event) => {
      event.preventDefault();
      confirm.disabled = true;
      try {
        answer = await accept(new FormData(form));
        box.close();
      } catch (error) {
        put(trouble, told(error));
      } finally {
        confirm.disabled = false;
      }
    };
    const form = h('form', { on: { submit } }, heading, content, trouble, h('menu', {}, leave, confirm));
    const closed = () => {
      box.remove();
      resolve(answer);
    };
    const box = h('dialog', { 'aria-labelledby': 'dialog-title', on: { close: closed } }, form);
    document.body.append(box);
    box.showModal();
  });
}

/** A failure in full: what is wrong, where, and the code under which it is documented. */
export function told(error) {
  const { code, title, detail, errors = [], message } = error;
  return h('div', { class: 'problem' },
    h('strong', {}, title ?? message), code && [' ', h('code', {}, code)],
    detail && h('div', {}, detail),
    errors.length > 1 && h('ul', {}, errors.map((one) =>
      h('li', {}, h('code', {}, one.pointer || 'body'), ' ', one.detail))));
}

/** Says something for a while; a failure stays until it is put away. */
export function notice(what) {
  const failure = what instanceof Error;
  const note = h('div', { class: 'notice' }, failure ? told(what) : h('div', {}, what),
    h('button', { type: 'button', class: 'quiet', 'aria-label': 'Put away', on: { click: () => note.remove() } }, '×'));
  document.getElementById('notices').append(note);
  if (!failure) setTimeout(() => note.remove(), 6000);
}
