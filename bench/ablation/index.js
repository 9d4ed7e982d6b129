// Does attention help? `node bench/ablation --steps 20000 --seeds 0,1,2`; what it does stands in run.ts.
import { register } from 'tsx/esm/api';

register();
const { main } = await import('./run.ts');
process.exitCode = await main(process.argv.slice(2));
