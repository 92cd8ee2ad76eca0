"""An S3 server for the tests: moto, which checks signatures and policies once that is switched on.

Prints its port and an access key, which may do everything in the bucket `records`, and runs until its input ends.
"""

import json
import sys

import boto3
import requests
from moto.server import ThreadedMotoServer

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:ListBucket"],
            "Resource": ["arn:aws:s3:::records", "arn:aws:s3:::records/*"],
        }
    ],
}

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
address = f"http://{host}:{port}"


def client(service):
    return boto3.client(
        service,
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
    )


client("s3").create_bucket(Bucket="records")
iam = client("iam")
iam.create_user(UserName="gateway")
iam.put_user_policy(UserName="gateway", PolicyName="records", PolicyDocument=json.dumps(POLICY))
key = iam.create_access_key(UserName="gateway")["AccessKey"]
# From now on a signature has to be right, and the policy has to allow it.
requests.post(f"{address}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
print(json.dumps({"port": port, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
sys.stdin.read()
server.stop()
