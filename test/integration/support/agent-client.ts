/** A node's agent, asked without the command line: its socket is a file, so it is reached from outside of the node. */
import { LocalClient, localSocketPath } from '../../../src/agent/client.js';
import type { TestbedNode } from '../../testbed/node.js';

/** Asks a node's agent something. */
export async function askAgent<T>(node: TestbedNode, ask: (agent: LocalClient) => Promise<T>): Promise<T> {
  const agent = new LocalClient(localSocketPath(node.stateDirectory), node.stateDirectory);
  try {
    return await ask(agent);
  } finally {
    agent.close();
  }
}
