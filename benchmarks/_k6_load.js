// Calls at a constant rate, whatever became of those before (k6's constant-arrival-rate); benchmarks/_k6.py says which.
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import grpc from 'k6/net/grpc';

const calls = new SharedArray('calls', () => JSON.parse(open(__ENV.CALLS)));
const connections = Number(__ENV.CONNECTIONS);
const client = new grpc.Client();
client.load([__ENV.PROTOS], 'serving/v1/candidates.proto');

export const options = {
  systemTags: ['scenario'],
  scenarios: {
    // Each virtual user has a connection of its own, made before the first call is due.
    connect: { executor: 'per-vu-iterations', vus: connections, iterations: 1, exec: 'connect', gracefulStop: '0s' },
    load: {
      executor: 'constant-arrival-rate',
      exec: 'call',
      startTime: `${__ENV.CONNECT_S}s`,
      rate: Number(__ENV.CALLS_PER_MINUTE),
      timeUnit: '1m',
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: connections,
      gracefulStop: '5s',
    },
  },
};

let connected = false;

export function connect() {
  client.connect(__ENV.ADDRESS, { plaintext: true });
  connected = true;
}

export function call() {
  if (!connected) {
    connect();
  }
  const place = exec.scenario.iterationInTest;
  const { request, timeout } = calls[place % calls.length];
  const tags = { place: String(place) };
  const { status, message } = client.invoke(__ENV.METHOD, request, { timeout, tags });
  const items = message && message.packedItems;
  console.log(JSON.stringify({ place, status, items }));
}
