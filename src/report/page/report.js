// The page of one run that stands alone: what it shows is in it.
import { createRun } from './run.js';

/** @import { RunData } from '../data.ts' */

const run = /** @type {RunData} */ (JSON.parse(document.getElementById('data')?.textContent ?? ''));
const view = createRun();
document.getElementById('page')?.append(view.element);
view.show(run, typeof run.attention === 'string' ? null : run.attention);
