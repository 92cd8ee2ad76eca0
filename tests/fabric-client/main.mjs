// Uses a peer through Hyperledger Fabric's own client library and prints what it saw, as one line of JSON.
//
//   node main.mjs <address> <folder of the devnet> [<channel>]
//
// Nothing is judged here, so that the same program can be run against a real network and compared.

import * as crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { CommitError, GatewayError, checkpointers, connect, hash, signers } from '@hyperledger/fabric-gateway';

const [address, folder, channel = 'mychannel'] = process.argv.slice(2);
const utf8 = new TextDecoder();
const text = (bytes) => utf8.decode(bytes);

function open(user) {
    const tls = grpc.credentials.createSsl(readFileSync(join(folder, 'tls-ca.pem')));
    const client = new grpc.Client(address, tls);
    const key = crypto.createPrivateKey(readFileSync(join(folder, user.key)));
    const gateway = connect({
        client,
        identity: { mspId: user.mspId, credentials: readFileSync(join(folder, user.certificate)) },
        signer: signers.newPrivateKeySigner(key),
        hash: hash.sha256,
        evaluateOptions: () => ({ deadline: Date.now() + 20_000 }),
        endorseOptions: () => ({ deadline: Date.now() + 20_000 }),
        submitOptions: () => ({ deadline: Date.now() + 20_000 }),
        commitStatusOptions: () => ({ deadline: Date.now() + 20_000 }),
    });
    return { client, gateway, network: gateway.getNetwork(channel) };
}

const user = { mspId: 'Org1MSP', certificate: 'org1/user.pem', key: 'org1/user.key' };
const second = { mspId: 'Org2MSP', certificate: 'org2/user.pem', key: 'org2/user.key' };
const stranger = { ...second, mspId: 'Org1MSP' };

// What a promise that has to fail fails with.
async function failure(promise) {
    try {
        await promise;
        return { name: 'no error' };
    } catch (error) {
        const seen = { name: error.constructor.name, code: error.code, message: error.message };
        if (error instanceof GatewayError) {
            seen.details = error.details;
        }
        if (error instanceof CommitError) {
            seen.transaction = error.transactionId.length;
        }
        return seen;
    }
}

// The first `count` of an event stream, which is then closed.
async function first(count, events, view) {
    const seen = [];
    try {
        for await (const event of events) {
            seen.push(view(event));
            if (seen.length === count) {
                break;
            }
        }
    } finally {
        events.close();
    }
    return seen;
}

const chaincodeEvent = (event) => ({
    block: Number(event.blockNumber),
    chaincode: event.chaincodeName,
    name: event.eventName,
    payload: text(event.payload),
    transaction: event.transactionId,
});

const seen = {};
const { client, gateway, network } = open(user);
const counter = network.getContract('counter');
const basic = network.getContract('basic');

// Submit and evaluate.
seen.submitted = text(await counter.submitTransaction('Add', 'hits', '2'));
seen.evaluated = text(await counter.evaluateTransaction('Get', 'hits'));
seen.prefixed = text(await network.getContract('counter', 'Counter').evaluateTransaction('Get', 'hits'));

// Step by step, with the status of the commit.
const proposal = counter.newProposal('Add', { arguments: ['hits', '3'] });
const transaction = await proposal.endorse();
const commit = await transaction.submit();
const status = await commit.getStatus();
seen.commit = {
    sameId: proposal.getTransactionId() === commit.getTransactionId(),
    result: text(transaction.getResult()),
    successful: status.successful,
    code: status.code,
    block: Number(status.blockNumber),
};

// Two that read the same version of a key: the second one conflicts, whichever block it gets into.
const rivals = [];
for (const delta of ['10', '20']) {
    rivals.push(await counter.newProposal('Add', { arguments: ['hits', delta] }).endorse());
}
const commits = [];
for (const rival of rivals) {
    commits.push(await rival.submit());
}
seen.rivals = [];
for (const rival of commits) {
    const { code, successful } = await rival.getStatus();
    seen.rivals.push({ code, successful });
}

// The same transaction again is taken, and its first outcome stays.
await transaction.submit();
seen.repeated = (await commit.getStatus()).code;

// Endorsements that do not satisfy the policy.
const alone = await counter
    .newProposal('Add', { arguments: ['hits', '100'], endorsingOrganizations: ['Org1MSP'] })
    .endorse();
seen.alone = (await (await alone.submit()).getStatus()).code;
seen.afterAll = text(await counter.evaluateTransaction('Get', 'hits'));

// Refusals.
seen.endorseRefused = await failure(basic.submitTransaction('ReadAsset', 'nothing'));
seen.evaluateRefused = await failure(basic.evaluateTransaction('ReadAsset', 'nothing'));
seen.unknownChaincode = await failure(network.getContract('nosuch').submitTransaction('F'));
seen.unknownChaincodeEvaluated = await failure(network.getContract('nosuch').evaluateTransaction('F'));
seen.unknownOrganization = await failure(
    counter.submit('Add', { arguments: ['hits', '1'], endorsingOrganizations: ['Org9MSP'] }),
);
seen.unknownChannel = await failure(gateway.getNetwork('nosuch').getContract('counter').evaluateTransaction('Get', 'x'));
const strangers = open(stranger);
seen.stranger = await failure(strangers.network.getContract('counter').evaluateTransaction('Get', 'hits'));
strangers.gateway.close();
strangers.client.close();

// Another organisation's client is welcome.
const other = open(second);
seen.other = text(await other.network.getContract('counter').submitTransaction('Add', 'others', '1'));
other.gateway.close();
other.client.close();

// Chaincode events: replayed from a block, then from a checkpoint, then live.
const fromStart = () => network.getChaincodeEvents('counter', { startBlock: BigInt(1) });
const replayed = await first(3, await fromStart(), chaincodeEvent);
seen.replayed = replayed;
const checkpoint = checkpointers.inMemory();
await checkpoint.checkpointChaincodeEvent({
    blockNumber: BigInt(replayed[0].block),
    transactionId: replayed[0].transaction,
});
seen.resumed = await first(2, await network.getChaincodeEvents('counter', { checkpoint }), chaincodeEvent);
const live = await network.getChaincodeEvents('basic');
const awaited = first(1, live, chaincodeEvent);
await basic.submitTransaction('CreateAsset', 'a1', 'blue', '5', 'Tomoko', '300');
seen.live = (await awaited)[0];

// Blocks, whole and filtered. The header's hash is over its ASN.1 form.
function headerHash(header) {
    const value = (tag, bytes) => [tag, bytes.length, ...bytes];
    const fields = [
        ...value(2, [Number(header.getNumber())]),
        ...value(4, header.getPreviousHash_asU8()),
        ...value(4, header.getDataHash_asU8()),
    ];
    return crypto.createHash('sha256').update(Uint8Array.from(value(0x30, fields))).digest('hex');
}
seen.blocks = await first(3, await network.getBlockEvents({ startBlock: BigInt(0) }), (block) => ({
    number: Number(block.getHeader().getNumber()),
    previous: Buffer.from(block.getHeader().getPreviousHash_asU8()).toString('hex'),
    hash: headerHash(block.getHeader()),
    data: block.getData().getDataList_asU8().length,
    dataHash: Buffer.from(block.getHeader().getDataHash_asU8()).toString('hex'),
    dataHashed: crypto
        .createHash('sha256')
        .update(Buffer.concat(block.getData().getDataList_asU8()))
        .digest('hex'),
    filter: Array.from(block.getMetadata().getMetadataList_asU8()[2]),
}));
const endorserTransaction = 3;
seen.filtered = await first(
    3,
    await network.getFilteredBlockEvents({ startBlock: BigInt(0) }),
    (block) => ({
        number: Number(block.getNumber()),
        channel: block.getChannelId(),
        transactions: block.getFilteredTransactionsList().map((tx) => ({
            id: tx.getTxid().length,
            endorsed: tx.getType() === endorserTransaction,
            code: tx.getTxValidationCode(),
            events: (tx.getTransactionActions()?.getChaincodeActionsList() ?? []).map((action) => ({
                name: action.getChaincodeEvent().getEventName(),
                payload: action.getChaincodeEvent().getPayload_asU8().length,
            })),
        })),
    }),
);
seen.privateData = await first(
    2,
    await network.getBlockAndPrivateDataEvents({ startBlock: BigInt(0) }),
    (block) => Number(block.getBlock().getHeader().getNumber()),
);

gateway.close();
client.close();
console.log(JSON.stringify(seen));
