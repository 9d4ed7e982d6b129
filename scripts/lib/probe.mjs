// Child process of the set-up: opens the driver named in argv through the engine's own platform file, makes a device,
// and prints one line of JSON. A driver that crashes takes only this process with it.
import { load } from './source.mjs';

const { createInstance } = await load('gpu/platform');
const { adapters } = await createInstance({ driver: process.argv[2] });
await (await adapters[0]?.requestDevice())?.destroy();
const found = adapters.map(({ info }) => ({
  name: info.description || info.device || info.vendor,
  software: info.isFallbackAdapter,
}));
process.stdout.write(`${JSON.stringify(found)}\n`);
