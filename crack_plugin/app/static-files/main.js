// The page: what its parts do when they are used, and what they show of the state that the server tells.

import * as api from './api.js';
import { Cracks } from './cracks.js';
import { Training } from './training.js';
import { View } from './view.js';

const $ = (id) => document.getElementById(id);
const view = new View($('canvas'));
const POLL = 400;
const IDLE_POLL = 20000;
const BUSY = ['waiting', 'running'];

let facts = null;
let state = { photographs: [], job: null, training: null, weights: [] };
let shown = null;
let loaded = '';
// What was painted and is not sent yet: the photograph may be another one by then.
let unsent = null;
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
    timer = setTimeout(attempt(refresh), isBusy ? POLL : IDLE_POLL);
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
  if (text(items) !== text(list.children)) list.replaceChildren(...items);
}

function showJob() {
  const { job } = state;
  const isBusy = BUSY.includes(job?.state);
  $('job').hidden = !isBusy;
  $('find').disabled = isBusy;
  if (!job) return;
  const windows = job.all_windows ? `, window ${job.windows} of ${job.all_windows}` : '';
  const text = job.state === 'waiting' ? 'Waiting for others' : `${job.name}${windows}`;
  if ($('job-text').textContent !== text) $('job-text').textContent = text;
  $('progress').value = job.fraction;
  if (job.state === 'failed' && job.error !== showJob.told) tell(job.error);
  showJob.told = job.state === 'failed' ? job.error : null;
}

const current = () => state.photographs.find(({ id }) => id === shown) ?? null;

// Load what is shown, unless it is there already.
async function showPicture() {
  const photograph = current();
  $('empty').hidden = Boolean(photograph);
  const isNew = !photograph || loaded.split(' ')[0] !== String(photograph.id);
  const wanted = photograph ? `${photograph.id} ${photograph.predicted.now ? photograph.version : 0}` : '';
  if (wanted === loaded) return;
  loaded = wanted;
  if (isNew) {
    view.clear();
    cracks.clear();
  }
  if (!photograph) return;
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
    view.setMap(probability.values, corrections.values);
    view.setBefore(before?.values ?? null);
  }
  showSplit(photograph);
  $('undo').disabled = true;
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
  await keep();
  const refused = [];
  for (const file of files) {
    if (file.size > facts.upload_bytes) {
      refused.push(`${file.name} is larger than is allowed here.`);
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
for (const radio of document.querySelectorAll('input[name=mode]')) {
  radio.onchange = () => {
    $('windows').hidden = !inWindows();
  };
}

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
$('tool').onchange = () => {
  const tool = $('tool').value;
  view.set({ tool, points: tool === 'scale' ? view.points : [] });
  $('scale-measured').hidden = tool !== 'scale' || view.points.length < 2;
  if (tool !== 'move' && tool !== 'scale' && !view.now) tell('Press "Find cracks" first: there is nothing to correct yet.');
};
$('radius').oninput = () => view.set({ radius: Math.min(Math.max($('radius').valueAsNumber || 0, 0), 200) });
$('zoom-in').onclick = () => view.zoom(1.5);
$('zoom-out').onclick = () => view.zoom(1 / 1.5);
$('fit').onclick = () => view.fit();
$('full').onclick = () => view.full();

// --- corrections

function keepSoon() {
  $('undo').disabled = !view.strokes.length;
  unsent = { id: shown, corrections: view.corrections };
  clearTimeout(keeping);
  keeping = setTimeout(attempt(keep), 300);
}

async function keep() {
  clearTimeout(keeping);
  if (!unsent) return;
  const { id, corrections } = unsent;
  unsent = null;
  const body = corrections.slice();
  const told = await (await api.ask(api.at(`/photographs/${id}/corrections`), { method: 'PUT', body })).json();
  const photograph = state.photographs.find((each) => each.id === id);
  if (!photograph) return;
  Object.assign(photograph, told);
  showPhotographs();
  if (id !== shown) return;
  // What is on the screen is what was sent.
  loaded = `${id} ${photograph.version}`;
  cracks.show(photograph);
}

view.onStroke = keepSoon;
$('undo').onclick = () => {
  view.undo();
  keepSoon();
};

$('save').onsubmit = attempt(async (event) => {
  event.preventDefault();
  await keep();
  const chosen = state.photographs.filter((each) => each.predicted.now && each.is_corrected).map(({ id }) => id);
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

view.onPoints = (points) => {
  $('scale-measured').hidden = points.length < 2;
  $('scale-text').textContent = points.length < 2 ? 'Now the other end.' : '';
  if (points.length === 2) $('length').focus();
};

async function setScale(body) {
  const photograph = current();
  if (!photograph) {
    tell('Add a photograph first.');
    return;
  }
  await api.send(`/photographs/${photograph.id}/scale`, { ...body, for_all: $('for-all').checked });
  view.set({ points: [] });
  $('scale-measured').hidden = true;
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

for (const button of document.querySelectorAll('#downloads button')) {
  button.onclick = attempt(async () => {
    await keep();
    const { file, result } = button.dataset;
    if (file && !current()) {
      tell('Add a photograph first.');
      return;
    }
    const path = file ? `/photographs/${shown}/files/${file}` : `/results/${result}`;
    button.disabled = true;
    try {
      await api.download(`${path}?${cracks.query()}`);
    } finally {
      button.disabled = false;
    }
  });
}

$('message-close').onclick = () => tell('');

await attempt(async () => {
  facts = await api.open();
  $('limits').textContent = facts.limits;
  $('prompt').value = facts.prompt;
  $('window').value = facts.window;
  $('step').value = Math.round((3 * facts.window) / 4);
  $('threshold').value = facts.threshold;
  $('threshold-value').textContent = facts.threshold.toFixed(2);
  view.set({ threshold: facts.threshold });
  $('examples').hidden = !facts.examples;
  $('severity').append(...facts.severities.map((name) => new Option(name, name)));
  await refresh();
  document.body.dataset.ready = 'true';
})();
