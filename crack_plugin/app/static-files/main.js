// The page: what its parts do when they are used, and what they show of the state that the server tells.

import * as api from './api.js';
import { Cracks } from './cracks.js';
import { Tools } from './tools.js';
import { Training } from './training.js';
import { View } from './view.js';

const $ = (id) => document.getElementById(id);
const view = new View($('canvas'));
const downloads = document.querySelectorAll('#downloads button');
const POLL = 400;
const IDLE_POLL = 20000;
const BUSY = ['waiting', 'running'];

let facts = null;
let state = { photographs: [], job: null, training: null, weights: [] };
let shown = null;
let loaded = '';
// Whether what the server has is to be asked for again soon.
let isStale = false;
// What was painted and is not sent yet: the photograph may be another one by then.
let unsent = null;
let sending = null;
let keeping = 0;

// --- messages

function tell(text) {
  $('message-text').textContent = text;
  $('message').hidden = !text;
}

// Do something, and tell in the page what was refused.
function attempt(action) {
  return async (...given) => {
    try {
      return await action(...given);
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      tell(error.message);
      return null;
    }
  };
}

addEventListener('unhandledrejection', (event) => tell(`The page has a fault: ${event.reason?.message ?? event.reason}`));

const cracks = new Cracks(view, attempt);
const tools = new Tools(view, () => {
  view.undo();
  keepSoon();
});
const training = new Training(attempt, (key) => {
  $('weights').value = key;
  tell('');
});

// --- the state of the server

let timer = 0;

async function refresh() {
  clearTimeout(timer);
  try {
    // Or a new prediction would be shown without it.
    await keep();
    state = await api.read('');
    showWeights();
    showPhotographs();
    showJob();
    training.show(state.training, state.weights);
    await showPicture();
  } finally {
    const isBusy = BUSY.includes(state.job?.state) || state.training?.state === 'running';
    clearTimeout(timer);
    timer = setTimeout(attempt(refresh), isBusy || isStale ? POLL : IDLE_POLL);
  }
}

function options(select, entries) {
  const former = select.value;
  const wanted = entries.map(({ key, name }) => new Option(name, key));
  const same = wanted.length === select.length && wanted.every((each, i) => each.value === select[i].value);
  if (same) return;
  select.replaceChildren(...wanted);
  if (entries.some(({ key }) => key === former)) select.value = former;
}

function showWeights() {
  options($('weights'), state.weights);
  options($('before'), [{ key: '', name: '(nothing)' }, ...state.weights]);
}

function showPhotographs() {
  if (!state.photographs.some(({ id }) => id === shown)) shown = state.photographs[0]?.id ?? null;
  const items = state.photographs.map((photograph) => {
    const item = document.createElement('li');
    const [choose, remove] = [document.createElement('button'), document.createElement('button')];
    choose.type = remove.type = 'button';
    choose.textContent = photograph.name;
    const note = document.createElement('small');
    const parts = [`${photograph.width} x ${photograph.height}`];
    if (photograph.predicted.now) parts.push('looked at');
    if (photograph.is_corrected) parts.push('corrected');
    note.textContent = parts.join(', ');
    choose.append(note);
    choose.setAttribute('aria-pressed', photograph.id === shown);
    choose.onclick = attempt(async () => {
      await keep();
      shown = photograph.id;
      showPhotographs();
      await showPicture();
    });
    remove.textContent = '×';
    remove.setAttribute('aria-label', `Remove ${photograph.name}`);
    remove.onclick = attempt(async () => {
      if (unsent?.id === photograph.id) unsent = null;
      await api.ask(api.at(`/photographs/${photograph.id}`), { method: 'DELETE' });
      await refresh();
    });
    item.append(choose, remove);
    return item;
  });
  const list = $('photographs');
  // A button that has the focus is not taken away while nothing has changed.
  const text = (nodes) => [...nodes].map((node) => node.outerHTML).join();
  if (text(items) !== text(list.children)) {
    const focused = [...list.querySelectorAll('button')].indexOf(document.activeElement);
    list.replaceChildren(...items);
    if (focused >= 0) ([...list.querySelectorAll('button')][focused] ?? $('files')).focus({ preventScroll: true });
    const chosen = list.querySelector('[aria-pressed=true]');
    if (chosen && list.dataset.shown !== String(shown)) {
      // The list alone, and not the page.
      list.scrollTop = chosen.offsetTop - list.offsetTop - list.clientHeight / 2;
      list.dataset.shown = shown;
    }
  }
  showDownloads();
}

function showDownloads() {
  const there = { file: Boolean(current()?.predicted.now), result: state.photographs.some(isLookedAt) };
  for (const button of downloads) button.disabled = !(button.dataset.file ? there.file : there.result);
  $('downloads-text').hidden = there.result;
}

function showJob() {
  const { job } = state;
  const isBusy = BUSY.includes(job?.state);
  // On a narrow screen the picture is below: whoever has waited beside the button sees it now.
  if (!isBusy && !$('job').hidden && isOnScreen($('find'))) $('stage').scrollIntoView({ block: 'nearest' });
  const isStarted = isBusy && $('job').hidden;
  $('job').hidden = !isBusy;
  if (isStarted) $('job').scrollIntoView({ block: 'nearest' });
  $('find').disabled = isBusy;
  if (!job) return;
  const windows = job.all_windows > 1 ? `, window ${job.windows} of ${job.all_windows}` : '';
  const text = job.state === 'waiting' ? 'Waiting for others' : `${job.name}${windows}`;
  if ($('job-text').textContent !== text) $('job-text').textContent = text;
  $('progress').value = job.fraction;
  if (job.state === 'failed' && job.error !== showJob.told) tell(job.error);
  showJob.told = job.state === 'failed' ? job.error : null;
}

const current = () => state.photographs.find(({ id }) => id === shown) ?? null;
const isLookedAt = (photograph) => Boolean(photograph.predicted.now);

function isOnScreen(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

// Load what is shown, unless it is there already.
async function showPicture() {
  const photograph = current();
  isStale = false;
  $('empty').hidden = Boolean(photograph);
  const isNew = !photograph || loaded.split(' ')[0] !== String(photograph.id);
  const wanted = photograph ? `${photograph.id} ${photograph.predicted.now ? photograph.version : 0}` : '';
  if (wanted === loaded) return;
  const former = loaded;
  loaded = wanted;
  if (isNew) {
    view.clear();
    cracks.clear();
  }
  if (!photograph) {
    tools.show();
    return;
  }
  const path = `/photographs/${photograph.id}`;
  if (isNew) {
    const blob = await (await api.ask(api.at(`${path}/picture`))).blob();
    const picture = await createImageBitmap(blob);
    if (shown !== photograph.id) return;
    view.show(picture, photograph.width, photograph.height);
  }
  if (photograph.predicted.now) {
    const [probability, corrections] = await Promise.all([
      api.bytes(`${path}/maps/now`),
      api.bytes(`${path}/corrections`),
    ]);
    const before = photograph.predicted.before ? await api.bytes(`${path}/maps/before`) : null;
    if (shown !== photograph.id) return;
    if (!isNew && (unsent || sending || view.stroke)) {
      // Painted while this was on its way: it is asked for again when what was painted is sent.
      loaded = former;
      isStale = true;
      return;
    }
    view.setMap(probability.values, corrections.values);
    view.setBefore(before?.values ?? null);
  }
  showSplit(photograph);
  $('undo').disabled = true;
  tools.show();
  cracks.show(photograph);
}

function showSplit(photograph) {
  const { now, before } = photograph.predicted;
  $('split-row').hidden = $('split-value').hidden = !(now && before);
  if (!(now && before)) return;
  const name = (key) => state.weights.find((each) => each.key === key)?.name ?? key;
  $('split-value').textContent = `Left: ${name(before.weights)}. Right: ${name(now.weights)}.`;
}

// --- photographs

async function upload(files) {
  try {
    await addEach(files);
  } finally {
    $('upload-text').textContent = '';
  }
}

async function addEach(files) {
  await keep();
  const refused = [];
  for (const [number, file] of files.entries()) {
    $('upload-text').textContent = `Adding ${number + 1} of ${files.length}: ${file.name}`;
    if (file.size > facts.upload_bytes) {
      const most = `${Math.floor(facts.upload_bytes / 2 ** 20)} MB`;
      refused.push(`${file.name} is larger than the ${most} that are allowed here. Save it as JPEG, or cut it.`);
      continue;
    }
    const address = api.at(`/photographs?name=${encodeURIComponent(file.name)}`);
    try {
      const added = await (await api.ask(address, { method: 'POST', body: file })).json();
      shown = added.id;
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      refused.push(error.message);
    }
    await refresh();
  }
  tell(refused.join('\n'));
}

$('files').onchange = attempt(async () => {
  await upload([...$('files').files]);
  $('files').value = '';
});

$('examples').onclick = attempt(async () => {
  await api.send('/examples');
  await refresh();
});

addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('over');
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.body.classList.remove('over');
});
addEventListener('drop', attempt(async (event) => {
  event.preventDefault();
  document.body.classList.remove('over');
  await upload([...event.dataTransfer.files]);
}));

// --- finding cracks

const inWindows = () => document.querySelector('input[name=mode]:checked').value === 'windows';
const showWindows = () => {
  $('windows').hidden = !inWindows();
};
for (const radio of document.querySelectorAll('input[name=mode]')) radio.onchange = showWindows;

$('predict').onsubmit = attempt(async (event) => {
  event.preventDefault();
  tell('');
  await api.send('/predict', {
    prompt: $('prompt').value,
    weights: $('weights').value,
    before: $('before').value,
    window: inWindows() ? $('window').valueAsNumber : null,
    step: inWindows() ? $('step').valueAsNumber : null,
    photographs: $('only-this').checked && shown !== null ? [shown] : null,
  });
  await refresh();
});

$('cancel').onclick = attempt(async () => {
  await api.send('/cancel');
  await refresh();
});

// --- the picture

$('threshold').oninput = () => {
  const threshold = $('threshold').valueAsNumber;
  $('threshold-value').textContent = threshold.toFixed(2);
  view.set({ threshold });
  cracks.rest();
};
$('split').oninput = () => view.set({ split: $('split').valueAsNumber });
$('view').onchange = () => {
  view.set({ kind: $('view').value });
  cracks.rest();
};

// --- corrections

function keepSoon() {
  $('undo').disabled = !view.strokes.length;
  unsent = { id: shown, corrections: view.corrections };
  clearTimeout(keeping);
  keeping = setTimeout(attempt(keep), 300);
}

async function keep() {
  clearTimeout(keeping);
  // What went wrong with it is told where it was asked for.
  while (sending) await sending.catch(() => {});
  if (!unsent) return;
  sending = sendCorrections();
  try {
    await sending;
  } finally {
    sending = null;
  }
}

async function sendCorrections() {
  const { id, corrections } = unsent;
  unsent = null;
  const body = corrections.slice();
  const told = await (await api.ask(api.at(`/photographs/${id}/corrections`), { method: 'PUT', body })).json();
  const photograph = state.photographs.find((each) => each.id === id);
  if (!photograph) return;
  Object.assign(photograph, told);
  showPhotographs();
  if (id !== shown) return;
  // What is on the screen is what was sent, unless it was predicted anew in between.
  if (loaded === `${id} ${photograph.version - 1}`) loaded = `${id} ${photograph.version}`;
  cracks.show(photograph);
}

view.onStroke = keepSoon;

$('save').onsubmit = attempt(async (event) => {
  event.preventDefault();
  await keep();
  const chosen = state.photographs.filter((each) => isLookedAt(each) && each.is_corrected).map(({ id }) => id);
  if ($('save-this').checked && current()?.predicted.now && !chosen.includes(shown)) chosen.push(shown);
  const body = { dataset: $('dataset').value, threshold: view.threshold, photographs: chosen };
  const { lines } = await api.send('/dataset', body);
  $('saved').textContent = lines.join('. ');
  tell('');
});

$('train').onsubmit = attempt(async (event) => {
  event.preventDefault();
  const [dataset, prompt, weights] = ['dataset', 'prompt', 'weights'].map((id) => $(id).value);
  await api.send('/train', { dataset, prompt, weights, epochs: $('epochs').valueAsNumber });
  tell('');
  await refresh();
});

// --- scale

async function setScale(body) {
  const photograph = current();
  if (!photograph) {
    tell('Add a photograph first.');
    return;
  }
  await api.send(`/photographs/${photograph.id}/scale`, { ...body, for_all: $('for-all').checked });
  view.set({ points: [] });
  tools.show();
  await refresh();
  cracks.show(current());
}

$('scale-typed').onsubmit = attempt(async (event) => {
  event.preventDefault();
  await setScale({ mm_per_pixel: $('mm').value === '' ? null : $('mm').valueAsNumber });
});
$('scale-measured').onsubmit = attempt(async (event) => {
  event.preventDefault();
  await setScale({ points: view.points, length: $('length').valueAsNumber });
});

// --- downloads

for (const button of downloads) {
  button.onclick = attempt(async () => {
    await keep();
    const { file, result } = button.dataset;
    const path = file ? `/photographs/${shown}/files/${file}` : `/results/${result}`;
    button.disabled = true;
    try {
      await api.download(`${path}?${cracks.query()}`);
    } finally {
      showDownloads();
    }
  });
}

$('message-close').onclick = () => tell('');

await attempt(async () => {
  facts = await api.open();
  $('limits').textContent = facts.limits;
  $('prompt').value = facts.prompt;
  $('window').value = facts.window;
  $('step').value = facts.step;
  document.querySelector(`input[value=${facts.in_windows ? 'windows' : 'whole'}]`).checked = true;
  showWindows();
  $('threshold').value = facts.threshold;
  $('threshold-value').textContent = facts.threshold.toFixed(2);
  view.set({ threshold: facts.threshold });
  $('examples').hidden = !facts.examples;
  $('severity').append(...facts.severities.map(({ key, name }) => new Option(name, key)));
  await refresh();
  document.body.dataset.ready = 'true';
})();
