// `npm start`: everything from a fresh clone to a trained demo.
import { runCli } from './lib/source.mjs';
import { runScript, setup } from './setup.mjs';

const DEMO = ['demo'];

await runScript(async () => {
  await setup();
  return runCli([...DEMO, ...process.argv.slice(2)]);
});
