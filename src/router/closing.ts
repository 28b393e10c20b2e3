import { TidemarkError, type Outcome } from '../lib/errors.js';

/**
 * What a router that was closed tells whoever still asks. In a client that is its own program, which closed it. In a node or a
 * sidecar it is a caller who has cancelled nothing, and may go on elsewhere.
 */
export function closedError(isHop: boolean, outcome: Outcome = 'none'): TidemarkError {
  if (!isHop) return new TidemarkError('CANCELLED', 'CLOSED', 'this client was closed', { outcome });
  return new TidemarkError('UNAVAILABLE', 'SHUTTING_DOWN', 'this process is stopping; ask another', { outcome, retriable: true });
}
