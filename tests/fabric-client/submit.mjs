// Submits one transaction without TLS and prints its identifier, and the step that failed if one did, as one line of JSON.
//
//   node submit.mjs <address> <folder of the devnet> <chaincode> <function> <argument>...

import * as crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { connect, hash, signers } from '@hyperledger/fabric-gateway';

const [address, folder, chaincode, name, ...args] = process.argv.slice(2);
const client = new grpc.Client(address, grpc.credentials.createInsecure());
const key = crypto.createPrivateKey(readFileSync(join(folder, 'org1/user.key')));
const deadline = () => ({ deadline: Date.now() + 10_000 });
const gateway = connect({
    client,
    identity: { mspId: 'Org1MSP', credentials: readFileSync(join(folder, 'org1/user.pem')) },
    signer: signers.newPrivateKeySigner(key),
    hash: hash.sha256,
    endorseOptions: deadline,
    submitOptions: deadline,
    commitStatusOptions: deadline,
});

const seen = { step: 'endorse' };
try {
    const proposal = gateway.getNetwork('mychannel').getContract(chaincode).newProposal(name, { arguments: args });
    seen.id = proposal.getTransactionId();
    const transaction = await proposal.endorse();
    seen.step = 'submit';
    const commit = await transaction.submit();
    seen.step = 'commit';
    seen.code = (await commit.getStatus()).code;
    seen.step = 'done';
} catch (error) {
    seen.error = error.code;
}
gateway.close();
client.close();
console.log(JSON.stringify(seen));
