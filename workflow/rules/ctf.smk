# Contrast transfer function of each micrograph: fitted, or somebody's (input.ctf).

if project.settings.input.ctf:

    rule ctf_import:
        input:
            "<results>/session/check/shard_{shard}.star",
            project.settings.input.ctf,
        output:
            "<results>/ctf/shard_{shard}.star",
        log:
            "<results>/records/ctf.import/shard_{shard}.json",
        conda:
            "../../envs/emflow.yaml"
        threads: 1
        resources:
            mem_mb=lambda wildcards, attempt: 2000 * attempt,
            runtime=lambda wildcards, attempt: 10 * attempt,
        params:
            cfg=section("ctf.import"),
        shell:
            "emflow ctf import {input} {output}"
            " --json {params.cfg:q} --threads {threads} --record {log}"

else:

    rule ctf_fit:
        input:
            "<results>/session/check/shard_{shard}.star",
        output:
            "<results>/ctf/shard_{shard}.star",
        log:
            "<results>/records/ctf.fit/shard_{shard}.json",
        retries: project.retries
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(4)
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            cfg=section("ctf.fit"),
        shell:
            "emflow ctf fit {input} {output}"
            " --json {params.cfg:q} --threads {threads} --record {log}"
