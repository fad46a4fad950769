// What mouse and fingers do on the picture, and the line that says it.

const $ = (id) => document.getElementById(id);
const LARGEST_BRUSH = 200;

export class Tools {
  constructor(view, onUndo) {
    this.view = view;
    for (const choice of document.querySelectorAll('input[name=tool]')) {
      choice.onchange = () => this.choose(choice.value);
    }
    $('radius').oninput = () => {
      view.set({ radius: Math.min(Math.max($('radius').valueAsNumber || 0, 0), LARGEST_BRUSH) });
    };
    $('zoom-in').onclick = () => view.zoom(1.5);
    $('zoom-out').onclick = () => view.zoom(1 / 1.5);
    $('fit').onclick = () => view.fit();
    $('full').onclick = () => view.full();
    $('undo').onclick = onUndo;
    view.onPoints = () => {
      this.show();
      if (view.points.length === 2) $('length').focus();
    };
    this.show();
  }

  choose(tool) {
    this.view.set({ tool, points: tool === 'scale' ? this.view.points : [] });
    this.show();
  }

  // After what the view has was changed.
  show() {
    const { tool, points } = this.view;
    $('scale-measured').hidden = points.length < 2;
    $('brush-size').hidden = tool !== 'brush' && tool !== 'eraser';
    const text = this.hint();
    if ($('hint').textContent !== text) $('hint').textContent = text;
  }

  hint() {
    const { picture, now, tool, points } = this.view;
    if (!picture) return '';
    if (tool === 'move') return 'Drag to move; the wheel, or two fingers, zooms.';
    if (tool === 'scale') {
      const steps = ['Click on one end of something whose length you know.', 'Now on the other end.'];
      return steps[points.length] ?? 'Now type its length, at Scale.';
    }
    if (!now) return 'Press "Find cracks" first: there is nothing to correct yet.';
    return tool === 'brush' ? 'Drag along a crack that is missing.' : 'Drag over what is no crack.';
  }
}
