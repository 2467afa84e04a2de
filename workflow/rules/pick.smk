# Where particles are: picked, or somebody's coordinates (input.picks).

if project.settings.input.picks:

    rule pick_import:
        input:
            "<results>/session/check/shard_{shard}.star",
            project.settings.input.picks,
        output:
            "<results>/pick/shard_{shard}.star",
        log:
            "<results>/records/pick.import/shard_{shard}.json",
        conda:
            "../../envs/emflow.yaml"
        threads: 1
        resources:
            mem_mb=lambda wildcards, attempt: 2000 * attempt,
            runtime=lambda wildcards, attempt: 10 * attempt,
        params:
            cfg=section("pick.import"),
        shell:
            "emflow pick import {input} {output}"
            " --json {params.cfg:q} --threads {threads} --record {log}"

else:

    rule pick_apply:
        input:
            project.pick_from,
        output:
            "<results>/pick/shard_{shard}.star",
        log:
            "<results>/records/pick.apply/shard_{shard}.json",
        # before more is denoised: picking removes the denoised images of its shard
        priority: 1
        retries: project.retries
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(4)
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            cfg=project.picking,
        shell:
            "emflow pick apply {input} {output}"
            " --json {params.cfg:q} --threads {threads} --record {log}"

    if project.other_pixels:

        # a simulated session's table of figures shows raw and denoised pixels side by side
        use rule pick_apply as pick_compared with:
            input:
                "<results>/denoise/shard_{shard}.star",
            output:
                f"<results>/pick/{project.other_pixels}/shard_{{shard}}.star",
            log:
                f"<results>/records/pick.apply/{project.other_pixels}_{{shard}}.json",
            params:
                cfg=project.section("pick.apply", pixels=project.other_pixels),


if project.assessed:

    rule pick_assess:
        input:
            "<results>/ctf/shard_{shard}.star",
        output:
            "<results>/pick/assess/shard_{shard}.star",
        log:
            "<results>/records/pick.assess/shard_{shard}.json",
        retries: project.retries
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(2)
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=lambda wildcards, attempt: 60 * attempt,
        params:
            cfg=section("pick.assess"),
        shell:
            "emflow pick assess {input} {output}"
            " --json {params.cfg:q} --threads {threads} --record {log}"
