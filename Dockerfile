# The main job: `docker build -t zsl . && docker run -v "$PWD/runs:/zsl/runs" zsl run --method ale --loss mse remse`.
# Untested: it was written where there is no Docker.
FROM python:3.11-slim

WORKDIR /zsl
COPY . .
RUN pip install --no-cache-dir '.[search,report]'

# A mounted folder of data sets: `docker run -v /data/xlsa17:/data -e ZSL_DATA=/data ...`.
ENTRYPOINT ["zsl"]
CMD ["run", "--method", "ale", "--loss", "mse", "remse"]
