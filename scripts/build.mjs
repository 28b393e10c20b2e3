#!/usr/bin/env node
/** `npm run build`: compiles anew, whatever is there. */
import { build } from './prepare.mjs';

process.exitCode = await build();
