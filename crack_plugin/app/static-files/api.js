// What the page asks the server for, and nothing else: all addresses are of the session that it was given.

let session = '';

export class Refused extends Error {}

// An answer of the server; what it refuses is thrown in its words.
export async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Refused('The program that serves this page does not answer. Is it still running in its terminal?');
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ error: 'The program has a fault: see its terminal.' }));
    const error = new Refused(told.error);
    error.status = answer.status;
    throw error;
  }
  return answer;
}

export const at = (path) => `/sessions/${session}${path}`;

export const read = async (path) => (await ask(at(path))).json();

export async function send(path, body = {}, method = 'POST') {
  const answer = await ask(at(path), { method, body: JSON.stringify(body) });
  return answer.status === 204 ? null : answer.json();
}

// A map, a byte a pixel.
export async function bytes(path) {
  const answer = await ask(at(path));
  return { values: new Uint8Array(await answer.arrayBuffer()), headers: answer.headers };
}

// Loading the page again goes on with the same photographs; another tab begins with none.
export async function open() {
  const facts = await (await ask('/facts')).json();
  session = sessionStorage.getItem('session') ?? '';
  const known = session ? await read('').catch(() => null) : null;
  if (!known) {
    session = (await (await ask('/sessions', { method: 'POST' })).json()).key;
  }
  sessionStorage.setItem('session', session);
  addEventListener('pagehide', () => navigator.sendBeacon(at('/leave')));
  return facts;
}

// Save an answer as a file.
export async function download(path) {
  const answer = await ask(at(path));
  const link = document.createElement('a');
  const named = /filename="([^"]+)"/.exec(answer.headers.get('Content-Disposition') ?? '');
  link.href = URL.createObjectURL(await answer.blob());
  link.download = named ? named[1] : 'download';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
