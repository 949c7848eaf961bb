// The page's state lies in the address, and everything is drawn from it.
'use strict';

(() => {
  const NONE = '–';
  const data = JSON.parse(document.getElementById('data').textContent);
  const $ = id => document.getElementById(id);
  data.columns.forEach((column, index) => { column.index = index; });
  const at = Object.fromEntries(data.columns.map(column => [column.id, column.index]));
  const inGroup = group => data.columns.filter(column => column.group === group);
  for (const board of data.boards) {
    board.tags = (board.simulated ? ' (SIMULATED)' : '') + (board.protocol === 'literature' ? ', selected on test' : '');
    for (const row of board.rows) {
      row.setup = row.tuned ? `tuned, ${row.tuned} trials` : row.name.includes(':') ? row.name.slice(row.name.indexOf(':') + 1) : '';
      row.label = `${row.method}${row.setup ? ` (${row.setup})` : ''} + ${row.loss}`;
      row.words = [row.label, row.name, row.family, row.key].join(' ').toLowerCase();
    }
  }

  /** An element; properties whose names start with "on" are listeners, others attributes. Text is never read as HTML. */
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, '');
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter(child => child !== null && child !== ''));
    return element;
  }
  const hidden = text => el('span', {class: 'hidden'}, text);

  // The state

  const SINGLE = {kind: '', dataset: '', protocol: '', board: '', q: '', family: '', loss: '', columns: 'accuracy', sort: '', ranked: ''};
  const SEVERAL = ['pick', 'open'];
  let state, board, table, shownColumns;

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    state = Object.fromEntries(Object.entries(SINGLE).map(([name, value]) => [name, given.get(name) ?? value]));
    for (const name of SEVERAL) state[name] = (given.get(name) ?? '').split(',').filter(Boolean);
  }

  function writeAddress() {
    const kept = Object.keys(SINGLE).filter(name => state[name] !== SINGLE[name]).map(name => [name, state[name]]);
    for (const name of SEVERAL) if (state[name].length) kept.push([name, state[name].join(',')]);
    const text = kept.map(([name, value]) => `${name}=${encodeURIComponent(value).replace(/%2F/g, '/').replace(/%2C/g, ',')}`).join('&');
    history.replaceState(null, '', `#${text}`);
  }

  /** Replace what the address asks for and this page does not have by what it has. */
  function settle() {
    const known = (name, values) => { if (!values.includes(state[name])) state[name] = SINGLE[name]; };
    known('kind', ['real', 'simulated']);
    known('dataset', data.boards.map(b => b.dataset));
    known('protocol', data.boards.map(b => b.protocol));
    known('columns', data.groups.map(g => g.id));
    const found = matchingBoards();
    board = found.find(b => b.id === state.board) ?? found[0] ?? null;
    state.board = board ? board.id : '';
    const rows = board ? board.rows : [];
    known('family', rows.map(row => row.family));
    known('loss', rows.map(row => row.loss));
    for (const name of SEVERAL) state[name] = [...new Set(state[name])].filter(key => rows.some(row => row.key === key));
    state.pick = state.pick.slice(0, charts.MAXIMUM);
    shownColumns = columnsOf(state.columns);
    known('ranked', rankings().map(r => r.id));
    known('sort', ['method', 'loss', 'family', 'n', ...shownColumns.map(c => c.id)].flatMap(id => [id, `-${id}`]));
  }

  /** By AUSUC where it is shown and nothing else was asked for; else in the board's own order. */
  const order = () => state.sort || (shownColumns.some(c => c.id === 'AUSUC') ? '-AUSUC' : '');
  const rankings = () => data.ranks.filter(r => board && r.simulated === board.simulated);

  const matchingBoards = () => data.boards.filter(b =>
    (!state.kind || b.simulated === (state.kind === 'simulated')) &&
    (!state.dataset || b.dataset === state.dataset) && (!state.protocol || b.protocol === state.protocol));

  function change(changes, draw = drawRows) {
    Object.assign(state, changes);
    settle();
    draw();
    writeAddress();
  }

  // The choice of a board and the filters

  function options(select, values, chosen) {
    select.replaceChildren(...values.map(([value, text]) => el('option', {value, selected: value === chosen}, text)));
    select.value = chosen;
  }
  const distinct = values => [...new Set(values)].sort();
  const protocolName = name => (name === 'literature' ? 'literature: selected on test' : name);

  function drawControls() {
    $('kind').value = state.kind;
    options($('dataset'), [['', 'all'], ...distinct(data.boards.map(b => b.dataset)).map(name =>
      [name, name + (data.boards.find(b => b.dataset === name).simulated ? ' (SIMULATED)' : '')])], state.dataset);
    options($('protocol'), [['', 'all'], ...distinct(data.boards.map(b => b.protocol)).map(name => [name, protocolName(name)])], state.protocol);
    const found = matchingBoards();
    const words = b => `${b.dataset}${b.tags}: ${b.features}, ${b.protocol}, ${b.split === 'proposed' ? 'proposed split' : 'random partitions'}, revision ${b.revision}`;
    options($('board'), found.length ? found.map(b => [b.id, words(b)]) : [['', 'no board matches']], state.board);
    const rows = board ? board.rows : [];
    options($('family'), [['', 'all'], ...distinct(rows.map(row => row.family)).map(name => [name, name])], state.family);
    options($('loss'), [['', 'all'], ...distinct(rows.map(row => row.loss)).map(name => [name, name])], state.loss);
    options($('columns'), data.groups.map(group => [group.id, group.title]), state.columns);
    if ($('q').value !== state.q) $('q').value = state.q;
  }

  // The table

  function columnsOf(group) {
    if (group === 'difference') {
      return data.tested.map((name, i) => ({
        id: `delta_${name.replaceAll(' ', '_')}`, title: `Δ ${name.replace('calibrated', 'cal.')}`, falling: true,
        value: row => row.differences[i]?.[0], cell: row => differenceCell(row.differences[i]?.[1] ?? NONE),
        fields: row => [['', row.differences[i]?.[0]], ['_test', row.differences[i]?.[1]]],
      }));
    }
    return inGroup(group).map(column => {
      const bounded = board?.rows.some(row => row.measures[column.index]?.[3]);
      return {
        ...column, value: row => row.measures[column.index]?.[0], cell: row => measureCell(row, column),
        fields: row => {
          const [mean, std, , interval] = row.measures[column.index] ?? [];
          return [['', mean], ['_std', std], ...(bounded ? [['_low', interval?.[0]], ['_high', interval?.[1]]] : [])];
        },
      };
    });
  }

  /** "+0.42 [0.1, 0.8] (p = 0.03)": the difference, and below it what it is worth. */
  function differenceCell(text) {
    const [mean, ...rest] = text.split(' ');
    return [mean, rest.length ? el('span', {class: 'test'}, ` ${rest.join(' ')}`) : ''];
  }

  function measureCell(row, column) {
    const measure = row.measures[column.index];
    if (!measure) return [NONE];
    const mean = measure[0].toFixed(column.digits);
    return [
      row.best.includes(column.id) ? el('strong', {}, mean) : mean,
      measure[1] === null ? '' : el('span', {class: 'muted'}, ` ± ${measure[1].toFixed(column.digits)}`),
      measure[3] ? el('span', {class: 'test'}, ` [${measure[3].map(end => end.toFixed(column.digits)).join(', ')}]`) : '',
    ];
  }

  const baseColumns = () => [
    {id: 'method', title: `Method${board.tags}`, value: row => row.method.toLowerCase() + row.setup, text: true},
    {id: 'loss', title: 'Loss', value: row => row.loss, text: true},
    {id: 'family', title: 'Family', value: row => row.family, text: true},
    {id: 'n', title: 'n', value: row => row.runs.length, falling: true},
  ];

  /** Draw everything anew: another board or other columns. */
  function draw() {
    drawControls();
    $('table').hidden = $('filter').hidden = !board;
    $('board-title').replaceChildren(board ? board.dataset : 'No board matches',
      ...(board?.simulated ? [' ', el('span', {class: 'badge warn'}, 'SIMULATED')] : []),
      ...(board?.protocol === 'literature' ? [' ', el('span', {class: 'badge warn'}, 'selected on test')] : []));
    if (!board) {
      for (const id of ['board-about', 'note', 'marks']) $(id).replaceChildren();
      $('status').textContent = 'No board matches these filters.';
      $('compare').hidden = $('picked').hidden = $('ranks').hidden = true;
      return;
    }
    const group = data.groups.find(g => g.id === state.columns);
    $('board-about').textContent = `Features ${board.features}, data revision ${board.revision}, ` +
      `${board.split === 'proposed' ? 'proposed split' : 'random partitions of the classes'}. Protocol ${protocolName(board.protocol)}: ${board.about}`;
    $('caption').textContent = `${group.title} on ${board.dataset}${board.tags}`;
    $('note').textContent = `${group.note} ± is the sample standard deviation over ` +
      (board.split === 'proposed' ? 'n seeds.' : 'partitions, each the mean over its seeds.');
    const used = Object.entries(data.marks).filter(([mark]) => board.rows.some(row => row.marks.includes(mark)));
    $('marks').replaceChildren(...used.map(([mark, meaning]) => el('li', {}, `${mark} ${meaning}`)));

    const columns = [...baseColumns(), ...shownColumns];
    table = TableCore.createTable({
      data: board.rows,
      columns: columns.map(c => ({
        id: c.id, accessorFn: row => c.value(row) ?? undefined, sortDescFirst: Boolean(c.falling), sortUndefined: 'last',
        sortingFn: c.text ? 'text' : 'basic', filterFn: 'equals', enableGlobalFilter: c.id === 'method',
      })),
      getRowId: row => row.key, renderFallbackValue: null, onStateChange: () => {},
      globalFilterFn: (row, _, words) => words.every(word => row.original.words.includes(word)),
      getColumnCanGlobalFilter: column => column.columnDef.enableGlobalFilter,
      getCoreRowModel: TableCore.getCoreRowModel(), getFilteredRowModel: TableCore.getFilteredRowModel(),
      getSortedRowModel: TableCore.getSortedRowModel(),
      state: {},
    });
    const head = el('tr', {}, el('th', {scope: 'col', class: 'pick'}, hidden('Pick to compare')), columns.map(c =>
      el('th', {scope: 'col', class: c.text ? '' : 'number', 'data-column': c.id},
        el('button', {type: 'button', class: 'sort', onclick: () => sortBy(c)}, c.title, el('span', {class: 'arrow', 'aria-hidden': 'true'})))));
    $('table').tHead.replaceChildren(head);
    lines.clear();
    drawRows();
    drawRanks();
  }

  /** First the largest or, of text and errors, the smallest; then the other way round; then as at first. */
  function sortBy(column) {
    const orders = column.falling ? [`-${column.id}`, column.id] : [column.id, `-${column.id}`];
    change({sort: orders[orders.indexOf(order()) + 1] ?? ''});
  }

  const lines = new Map(); // key -> its line, as long as board and columns stay

  /** Draw what filters, order and opened rows change. */
  function drawRows() {
    if (!board) return;
    const sorted = order().replace(/^-/, ''), falling = order().startsWith('-');
    const filters = ['family', 'loss'].filter(id => state[id]).map(id => ({id, value: state[id]}));
    table.setOptions(old => ({...old, state: {
      ...table.initialState,
      sorting: sorted ? [{id: sorted, desc: falling}] : [],
      columnFilters: filters, globalFilter: state.q.toLowerCase().split(/\s+/).filter(Boolean),
    }}));
    const rows = table.getRowModel().rows.map(row => row.original);
    const body = rows.flatMap(row => {
      if (!lines.has(row.key)) lines.set(row.key, line(row));
      const own = lines.get(row.key), open = state.open.includes(row.key);
      own.querySelector('.disclose').setAttribute('aria-expanded', String(open));
      own.querySelector('.disclose')[open ? 'setAttribute' : 'removeAttribute']('aria-controls', `detail-${row.key}`);
      return open ? [own, document.getElementById(`detail-${row.key}`) ?? detail(row)] : [own];
    });
    const focused = document.activeElement;
    const none = el('tr', {}, el('td', {colspan: 5 + shownColumns.length, class: 'none'}, 'No row matches these filters.'));
    $('table').tBodies[0].replaceChildren(...(body.length ? body : [none]));
    if (focused !== document.activeElement && focused.isConnected) focused.focus({preventScroll: true});
    for (const th of $('table').tHead.querySelectorAll('[data-column]')) {
      const own = th.dataset.column === sorted;
      if (own) th.setAttribute('aria-sort', falling ? 'descending' : 'ascending'); else th.removeAttribute('aria-sort');
      th.querySelector('.arrow').textContent = own ? (falling ? '▼' : '▲') : '↕';
    }
    const title = [...baseColumns(), ...shownColumns].find(c => c.id === sorted)?.title;
    $('status').textContent = `${rows.length} of ${board.rows.length} rows shown` +
      (title ? `, sorted by ${title}, ${falling ? 'descending' : 'ascending'}` : ', by family, year and loss') + '.';
    fit();
    drawPicked();
  }

  /** A table that fits scrolls with the page, under its own head; a wider one scrolls by itself, also by the keyboard. */
  function fit() {
    const box = $('scroll');
    box.classList.remove('fits');
    const fits = $('table').offsetWidth <= box.clientWidth;
    box.classList.toggle('fits', fits);
    if (fits) box.removeAttribute('tabindex'); else box.setAttribute('tabindex', '0');
  }

  function line(row) {
    const marks = [...row.marks].flatMap(mark => [el('span', {class: 'mark', 'aria-hidden': 'true'}, mark), hidden(` (${mark}: ${data.marks[mark]})`)]);
    return el('tr', {'data-key': row.key},
      el('td', {class: 'pick'}, el('input', {type: 'checkbox', 'aria-label': `Compare ${row.label}`, onchange: event => pick(row, event.target)})),
      el('th', {scope: 'row'}, el('div', {class: 'method'},
        el('button', {type: 'button', class: 'disclose', 'aria-expanded': 'false', 'aria-label': `Runs, command and charts of ${row.label}`, onclick: () => toggle(row)}),
        el('span', {}, row.method, marks, profile(row), setup(row),
          board.protocol === 'literature' ? el('span', {class: 'badge warn'}, 'selected on test') : null,
          row.problems.length ? el('span', {class: 'badge warn'}, `${row.problems.length} not ok`) : null))),
      el('td', {}, el('code', {}, row.loss)),
      el('td', {}, row.family),
      el('td', {class: 'number'}, row.n),
      shownColumns.map(column => el('td', {class: 'number'}, column.cell(row))));
  }

  const profile = row => (row.profile ? el('span', {class: 'badge'}, row.profile) : null);
  const setup = row => (row.tuned ? el('span', {class: 'badge'}, row.setup) : row.setup ? el('code', {class: 'setup'}, row.setup) : null);

  function toggle(row) {
    const open = state.open.includes(row.key);
    change({open: open ? state.open.filter(key => key !== row.key) : [...state.open, row.key]});
  }

  // A row's details

  const figures = (row, width) => [
    charts.runs(row, inGroup('accuracy'), {caption: `Each run, and the mean, in percent${board.tags}`, width}),
    charts.position([row], board, at, {caption: `Among all rows of this board, in percent; arrow: to calibrated${board.tags}`, width}),
  ];

  function detail(row) {
    const accuracy = inGroup('accuracy');
    const runs = row.runs.map((name, i) => el('tr', {},
      el('th', {scope: 'row'}, el('a', {href: row.files[i]}, name)),
      accuracy.map(c => el('td', {class: 'number'}, row.measures[c.index]?.[2][i]?.toFixed(c.digits) ?? NONE))));
    const folder = row.files.length ? row.files[0].replace(/[^/]*$/, '') : null;
    return el('tr', {class: 'detail', id: `detail-${row.key}`}, el('td', {colspan: 5 + shownColumns.length}, el('div', {class: 'detail-body'},
      el('h3', {}, row.label, el('span', {class: 'muted'}, board.tags)),
      row.marks ? el('p', {}, [...row.marks].map(mark => `${mark} ${data.marks[mark]}`).join(' ')) : null,
      row.problems.length ? el('ul', {}, row.problems.map(problem => el('li', {}, problem))) : null,
      row.runs.length ? el('div', {class: 'figures'}, figures(row, Math.min(400, innerWidth - 90))) : null,
      row.runs.length ? el('div', {class: 'inner', role: 'region', tabindex: '0', 'aria-label': `Runs of ${row.label}`}, el('table', {},
        el('caption', {}, 'Its runs'),
        el('thead', {}, el('tr', {}, el('th', {scope: 'col'}, 'Run file'), accuracy.map(c => el('th', {scope: 'col', class: 'number'}, c.title)))),
        el('tbody', {}, runs))) : null,
      published(row),
      command(row),
      folder ? el('p', {}, 'Settings ', el('code', {}, row.key), ' in ', el('a', {href: folder}, folder.replace('../', ''))) : null)));
  }

  /** What papers report of the row's method on this data. */
  function published(row) {
    const found = board.published[row.method], names = ['T1', 'U', 'S', 'H'];
    if (!found) return null;
    return el('div', {class: 'inner', role: 'region', tabindex: '0', 'aria-label': `Published figures of ${row.method}`}, el('table', {},
      el('caption', {}, `Published figures of ${row.method}, selected on test`),
      el('thead', {}, el('tr', {}, el('th', {scope: 'col'}, 'Source'), names.map(name => el('th', {scope: 'col', class: 'number'}, name)), el('th', {scope: 'col'}, 'Status'))),
      el('tbody', {}, found.map(paper => el('tr', {}, el('th', {scope: 'row'}, paper.source),
        names.map(name => el('td', {class: 'number'}, paper[name]?.toFixed(1) ?? NONE)), el('td', {}, [paper.status, paper.note].filter(Boolean).join('; ')))))));
  }

  const command = row => el('div', {class: 'command'}, el('p', {}, 'Reproduce it, at the commit of the runs (real data need ',
    el('code', {}, '--data-root'), ' or ', el('code', {}, '$ZSL_DATA'), '):'),
    el('div', {class: 'line'}, el('pre', {tabindex: '0', 'aria-label': 'Command'}, row.command), copyButton(row)));

  function copyButton(row) {
    return el('button', {type: 'button', class: 'copy', 'aria-label': `Copy the command of ${row.label}`, onclick: async event => {
      const button = event.currentTarget, done = await copy(row.command);
      button.textContent = done ? 'Copied' : 'Select and copy it';
      $('status').textContent = done ? `The command of ${row.label} was copied.` : 'This browser does not let the page copy.';
      setTimeout(() => { button.textContent = 'Copy command'; }, 2000);
    }}, 'Copy command');
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }

  // What is shown, as a file

  function csv() {
    const text = value => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value); // a spreadsheet would take it for a formula
    const facts = ['dataset', 'simulated', 'features', 'revision', 'protocol', 'split'].map(name => [name, text(String(board[name]))]);
    const record = row => [
      ...facts, ...['method', 'setup', 'profile', 'loss', 'family', 'n', 'key'].map(name => [name, text(row[name] ?? '')]),
      ...shownColumns.flatMap(column => column.fields(row).map(([field, value]) => [column.id + field, value ?? ''])),
    ];
    const quoted = value => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
    const shown = table.getRowModel().rows.map(row => record(row.original));
    const head = record(board.rows[0]).map(([name]) => name);
    return [head, ...shown.map(fields => fields.map(([, value]) => value))].map(fields => `${fields.map(quoted).join(',')}\r\n`).join('');
  }

  function download() {
    const url = URL.createObjectURL(new Blob([csv()], {type: 'text/csv'}));
    const said = [board.dataset, board.simulated && 'SIMULATED', board.protocol === 'literature' && 'selected-on-test', state.columns];
    el('a', {href: url, download: `${said.filter(Boolean).join('-')}.csv`}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // Ranks over data sets

  function drawRanks() {
    const found = rankings(), chosen = found.find(r => r.id === state.ranked) ?? found[0];
    $('ranks').hidden = !chosen;
    if (!chosen) return $('ranking').replaceChildren();
    options($('ranked'), found.map(r => [r.id, r.id]), chosen.id);
    $('ranks-title').textContent = `Mean ranks in AUSUC over data sets${board.simulated ? ' (SIMULATED)' : ''}`;
    $('ranks-about').textContent = `Strict protocol, proposed split: ${chosen.datasets.join(', ')}. 1 is the best. Methods that a bar joins lie ` +
      'within the critical difference: Nemenyi\'s test does not tell them apart at 5 %' +
      `${chosen.p === null ? '' : ` (Friedman's test: p = ${chosen.p})`}. Over so few data sets ranks describe, and prove little.`;
    const width = Math.min(560, $('ranks').clientWidth - 34);
    $('ranking').replaceChildren(charts.ranks(chosen, {caption: `Mean rank under ${chosen.id}${board.simulated ? ' (SIMULATED)' : ''}`, width}));
  }

  // Picked rows

  function pick(row, box) {
    if (box.checked && state.pick.length >= charts.MAXIMUM) {
      box.checked = false;
      $('status').textContent = `At most ${charts.MAXIMUM} rows are compared; remove one first.`;
      return;
    }
    state.pick = box.checked ? [...state.pick, row.key] : state.pick.filter(key => key !== row.key);
    drawPicked();
    writeAddress();
  }

  function drawPicked() {
    const rows = state.pick.map(key => board.rows.find(row => row.key === key));
    for (const [key, own] of lines) {
      own.classList.toggle('chosen', state.pick.includes(key));
      own.querySelector('input').checked = state.pick.includes(key);
    }
    $('picked').hidden = $('compare').hidden = !rows.length;
    document.body.classList.toggle('has-picked', rows.length > 0);
    $('picked-count').textContent = rows.length === 1 ? '1 row picked' : `${rows.length} rows picked`;
    if (rows.length) drawComparison(rows);
  }

  function drawComparison(rows) {
    const own = $('comparison'), space = own.clientWidth, width = Math.max(280, (space > 900 ? (space - 16) / 2 : space) - 34);
    $('compare-title').textContent = `Comparison on ${board.dataset}${board.tags}`;
    const chart = columns => columns.map(id => data.columns[at[id]]);
    const named = ids => chart(ids).map(c => ({...c, title: `${c.title}, ${c.group}`}));
    const measured = rows.some(row => row.measures[at.unseen_std]);
    own.replaceChildren(
      el('div', {class: 'inner', role: 'region', tabindex: '0', 'aria-label': 'Figures side by side'}, sideBySide(rows)),
      el('div', {class: 'figures'},
        charts.dots(rows, inGroup('accuracy'), {caption: `Accuracy in percent: mean ± std, and each run${board.tags}`, width}),
        charts.position(rows, board, at, {caption: `Seen and unseen classes in percent; arrow: to calibrated; small dots: all rows of this board${board.tags}`, width}),
        measured ? charts.dots(rows, named(['unseen_mean', 'unseen_std', 'seen_mean', 'seen_std']), {caption: `Error of predicted semantics: mean, and std over semantics, in 1e-4${board.tags}`, width}) : null,
        measured ? charts.dots(rows, named(['unseen_spread', 'unseen_r', 'seen_spread', 'seen_r']), {caption: `Spread, and correlation r of label value and error${board.tags}`, width}) : null,
        rows.some(row => row.classes.some(value => value !== null)) ? charts.classes(rows, board, {caption: `T1 of each unseen class in percent${board.tags}`, width}) : null));
  }

  function sideBySide(rows) {
    const head = rows.map((row, i) => el('th', {scope: 'col'}, el('div', {class: 'compared'}, charts.symbol(i), el('span', {}, row.method, row.marks, ' + ', el('code', {}, row.loss), profile(row), setup(row)),
      el('button', {type: 'button', class: 'remove', 'aria-label': `Remove ${row.label}`, onclick: () => unpick(row)}, '×'))));
    const groups = data.groups.map(group => {
      const columns = columnsOf(group.id).filter(c => rows.some(row => (c.value(row) ?? null) !== null));
      return columns.length ? el('tbody', {}, el('tr', {}, el('th', {scope: 'rowgroup', colspan: rows.length + 1, class: 'group'}, group.title)),
        columns.map(c => el('tr', {}, el('th', {scope: 'row'}, c.title), rows.map(row => el('td', {class: 'number'}, c.cell(row)))))) : null;
    });
    return el('table', {},
      el('caption', {}, `Side by side${board.tags}`),
      el('thead', {}, el('tr', {}, el('th', {scope: 'col'}, 'Figure'), head)),
      el('tbody', {}, el('tr', {}, el('th', {scope: 'row'}, 'n'), rows.map(row => el('td', {class: 'number'}, row.n)))),
      groups,
      el('tbody', {}, el('tr', {}, el('th', {scope: 'row'}, 'Command'), rows.map(row => el('td', {class: 'number'}, copyButton(row))))));
  }

  function unpick(row) {
    change({pick: state.pick.filter(key => key !== row.key)}, drawPicked);
    (state.pick.length ? $('compare-title') : $('board-title')).focus();
  }

  // The chart beside a row under the pointer or with the focus; its details hold the same

  let waiting;
  function peek(own) {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const row = board?.rows.find(r => r.key === own.dataset.key);
      if (!row?.runs.length || !own.isConnected || state.open.includes(row.key)) return;
      $('peek').replaceChildren(el('p', {}, row.label + board.tags), el('div', {class: 'figures'}, figures(row, 270)));
      $('peek').hidden = false;
      const box = own.getBoundingClientRect(), {offsetWidth, offsetHeight} = $('peek');
      const below = box.bottom + 8, above = box.top - offsetHeight - 8;
      $('peek').style.left = `${Math.max(8, innerWidth - offsetWidth - 24)}px`;
      $('peek').style.top = `${below + offsetHeight < innerHeight || above < 0 ? below : above}px`;
    }, 250);
  }
  function unpeek() {
    clearTimeout(waiting);
    $('peek').hidden = true;
  }

  // Listeners

  const reset = {kind: '', dataset: '', protocol: ''};
  for (const name of ['kind', 'dataset', 'protocol']) $(name).addEventListener('change', event => change({[name]: event.target.value}, draw));
  $('board').addEventListener('change', event => change({board: event.target.value}, draw));
  $('columns').addEventListener('change', event => change({columns: event.target.value, sort: ''}, draw));
  for (const name of ['family', 'loss']) $(name).addEventListener('change', event => change({[name]: event.target.value}));
  $('q').addEventListener('input', event => change({q: event.target.value}));
  $('ranked').addEventListener('change', event => change({ranked: event.target.value}, drawRanks));
  $('download').addEventListener('click', download);
  $('reset').addEventListener('click', () => change({...SINGLE, ...reset, board: state.board, open: []}, draw));
  $('clear').addEventListener('click', () => { change({pick: []}, drawPicked); $('board-title').focus(); });
  $('go-compare').addEventListener('click', () => { $('compare-title').focus({preventScroll: true}); $('compare').scrollIntoView(); });
  $('skip').addEventListener('click', event => { event.preventDefault(); $('board-title').focus(); });
  for (const form of ['choose', 'filter']) $(form).addEventListener('submit', event => event.preventDefault());

  const body = $('table').tBodies[0];
  const lineOf = event => event.target.closest('tr[data-key]');
  body.addEventListener('pointerover', event => { if (event.pointerType === 'mouse' && lineOf(event)) peek(lineOf(event)); });
  body.addEventListener('pointerleave', unpeek);
  body.addEventListener('focusin', event => { if (event.target.matches('.disclose:focus-visible')) peek(lineOf(event)); else unpeek(); });
  body.addEventListener('focusout', unpeek);
  body.addEventListener('click', unpeek);
  addEventListener('scroll', unpeek, {passive: true});
  addEventListener('keydown', event => { if (event.key === 'Escape') unpeek(); });

  let width = innerWidth;
  addEventListener('resize', () => { if (innerWidth !== width && board) { width = innerWidth; fit(); drawPicked(); drawRanks(); } });
  addEventListener('hashchange', () => { readAddress(); settle(); draw(); });

  // The theme is the reader's, not the view's: it is kept by the browser, where that may be, and not in the address.
  const theme = $('theme'), THEME = 'zsl-leaderboards-theme';
  const applyTheme = () => { document.documentElement.dataset.theme = theme.value; };
  try { theme.value = localStorage.getItem(THEME) ?? ''; } catch { /* no storage: the system's theme */ }
  theme.addEventListener('change', () => {
    applyTheme();
    try { localStorage.setItem(THEME, theme.value); } catch { /* it holds until the page is left */ }
  });
  applyTheme();

  readAddress();
  settle();
  draw();
})();
